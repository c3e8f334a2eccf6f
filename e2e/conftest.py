"""What the end-to-end tests share: a real cluster, the operator from the chart, kubectl, namespaces, waiting.

The cluster is started (or found) and the images are built and loaded once a run; both are cached, so a second
run starts in seconds. Nothing here is mocked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = "slipway-system"


def tool(*arguments: str) -> str:
    """Run the cluster tool; its progress goes to the terminal, its answer is returned."""
    command = [sys.executable, "-m", "e2e.cluster", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


@dataclass(frozen=True)
class Cluster:
    """The running cluster. `audit_log` is None where the provider keeps none."""

    kubeconfig: str
    kubectl: str
    provider: str
    audit_log: Path | None

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": self.kubeconfig}

    def restart(self, component: str) -> None:
        """Restart a component of the control plane (provider `local` only)."""
        if self.provider != "local":
            pytest.skip(f"the provider {self.provider} cannot restart its {component}")
        tool("restart", component)


class KubectlError(RuntimeError):
    """kubectl answered with an error; the message is what it wrote."""


@dataclass(frozen=True)
class Kube:
    """kubectl as a function: text out, or parsed JSON with `json=True`; objects in through `stdin`."""

    cluster: Cluster

    def __call__(self, *arguments: str, json: bool = False, stdin: Any = None) -> Any:
        command = [self.cluster.kubectl, *arguments, *(["-o", "json"] if json else [])]
        text = None if stdin is None else stdin if isinstance(stdin, str) else _dump(stdin)
        result = subprocess.run(
            command,
            env=self.cluster.env,
            input=text,
            text=True,
            capture_output=True,
            check=False,
            timeout=180,
        )
        if result.returncode:
            raise KubectlError(result.stderr.strip())
        return _load(result.stdout) if json else result.stdout

    def apply(self, *objects: Any) -> None:
        """Server-side validated `kubectl apply` of plain objects."""
        self("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": list(objects)})

    def get(self, kind: str, name: str, namespace: str | None = None) -> Any:
        """Return the object, or None where there is none."""
        scope = ["-n", namespace] if namespace else []
        try:
            return self("get", kind, name, *scope, json=True)
        except KubectlError as error:
            if "NotFound" in str(error):
                return None
            raise


def _dump(value: Any) -> str:
    return json.dumps(value)


def _load(text: str) -> Any:
    return json.loads(text)


def wait_until(what: str, probe: Any, timeout: float = 120, every: float = 0.5) -> Any:
    """Call `probe` until it returns something true, and return that; fail with what was seen last."""
    deadline = time.monotonic() + timeout
    last: Any = None
    while time.monotonic() < deadline:
        last = probe()
        if last:
            return last
        time.sleep(every)
    raise AssertionError(f"{what}: not within {timeout:.0f} s; last seen: {last!r}")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    tool("up")
    status = json.loads(tool("status", "-o", "json"))
    log = status.get("audit_log")
    return Cluster(tool("kubeconfig"), tool("kubectl"), status["provider"], Path(log) if log else None)


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Kube:
    return Kube(cluster)


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> dict[str, dict[str, str]]:
    """The images of this checkout, built and loaded."""
    built: dict[str, dict[str, str]] = json.loads(
        tool("images", "operator", "gateway", "engine", "-o", "json")
    )
    tool("load", *(image["archive"] for image in built.values()))
    return built


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> Any:
    """Helm as a function."""
    program = tool("helm")

    def call(*arguments: str) -> str:
        result = subprocess.run(
            [program, *arguments], env=cluster.env, text=True, capture_output=True, check=False, timeout=400
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return call


@pytest.fixture(scope="session")
def operator(kube: Kube, request: pytest.FixtureRequest) -> str:
    """The operator of this checkout, installed through the chart; returns its namespace.

    `SLIPWAY_E2E_OPERATOR` names the namespace of the Lease of one that runs already, started by hand.
    """
    running = os.environ.get("SLIPWAY_E2E_OPERATOR")
    if running:
        return running
    helm, images = request.getfixturevalue("helm"), request.getfixturevalue("images")
    settings = [f"operator.image={images['operator']['ref']}", f"engine.image={images['engine']['ref']}"]
    chart = ["upgrade", "--install", "slipway", str(ROOT / "charts" / "slipway"), "--namespace", SYSTEM]
    helm(
        *chart,
        "--create-namespace",
        "--wait",
        "--timeout",
        "5m",
        *(p for s in settings for p in ("--set", s)),
    )
    return SYSTEM


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Any:
    """A fresh namespace that enforces the restricted Pod Security level; deleted afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "slipway.dev/e2e": "true"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    kube("delete", "namespace", name, "--wait=false")


@pytest.fixture
def wait_for() -> Any:
    return wait_until
