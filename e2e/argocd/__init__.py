"""A real Argo CD beside the cluster: its controller and repository server, with a Redis, as local processes.

As Argo CD's developers run it on their machines: the processes of this machine serve the cluster that the
kubeconfig names, so no images are needed. They run on the node's network where that is on this machine, as
the controller opens a port to everybody. Built from its Go module once; `go.mod` and `go.sum` pin it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from e2e.cluster import apt, gotool, shell, versions
from e2e.cluster.build import machine
from e2e.cluster.local.namespaces import holders
from e2e.cluster.paths import default_paths
from e2e.cluster.progress import Progress

HERE = Path(__file__).resolve().parent
NAMESPACE = "argocd"
PACKAGE = "github.com/argoproj/argo-cd/v3"
CRDS = ("application-crd.yaml", "applicationset-crd.yaml", "appproject-crd.yaml")


def program() -> tuple[Path, Path]:
    """Return Argo CD's program, whose name chooses its role, and the directory of its module."""
    paths, progress = default_paths(), Progress()
    go = gotool.find(paths, versions.load(), progress)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath -mod=readonly"}
    found = json.loads(shell.run([go, "mod", "download", "-json", PACKAGE], cwd=HERE, env=environment))
    folder = paths.root / "servers" / f"argocd-{found['Version']}-{machine()}"
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / "argocd"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.is_file():
            part = folder / "part"
            with progress.step(f"Build Argo CD {found['Version']}"):
                build: list[str | Path] = [go, "build", "-ldflags=-s -w", "-o", part, f"{PACKAGE}/cmd"]
                shell.run(["nice", "-n", "5", *build], cwd=HERE, env=environment)
            part.rename(binary)
    return binary, Path(found["Dir"])


def redis() -> str:
    """Return Redis's program; Debian's is installed where there is none."""
    if shutil.which("redis-server") is None:
        apt.install(["redis-server"], Progress())
    found = shutil.which("redis-server")
    assert found is not None
    return found


def on_the_node() -> list[str]:
    """Return what runs a command on the local cluster's network; nothing where the cluster is elsewhere."""
    found = holders(default_paths().name)
    return ["nsenter", f"--net=/proc/{found[0].pid}/ns/net", "--"] if found else []


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ArgoCD:
    """The running processes; `stop` ends them. Their logs lie in `folder`."""

    def __init__(self, kubeconfig: str, folder: Path) -> None:
        self._folder = folder
        self._binary, self._module = program()
        self._environment = {
            **os.environ,
            "KUBECONFIG": kubeconfig,
            "ARGOCD_FAKE_IN_CLUSTER": "true",  # the cluster of the kubeconfig is kubernetes.default.svc
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_CONTROLLER_REPLICAS": "1",
            "HOSTNAME": "argocd-application-controller-0",
            "ARGOCD_REPO_SERVER_LISTEN_ADDRESS": "127.0.0.1",
            "ARGOCD_REPO_SERVER_LISTEN_METRICS_ADDRESS": "127.0.0.1",
            **{f"ARGOCD_{kind}_DATA_PATH": str(self._made(kind.lower())) for kind in ("SSH", "TLS", "GPG")},
            "ARGOCD_PLUGINSOCKFILEPATH": str(self._made("plugins")),
            "TMPDIR": str(self._made("tmp")),
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def _made(self, name: str) -> Path:
        path = self._folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def crds(self) -> list[Path]:
        """Return the files of its CRDs."""
        return [self._module / "manifests" / "crds" / name for name in CRDS]

    def objects(self, customizations: dict[str, str]) -> list[dict[str, Any]]:
        """Return what it wants to find in its namespace."""
        labels = {"app.kubernetes.io/part-of": "argocd"}

        def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
            metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
            return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **more}

        fast = {"timeout.reconciliation": "5s", "timeout.reconciliation.jitter": "0s"}
        project = {
            "sourceRepos": ["*"],
            "destinations": [{"server": "*", "namespace": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        }
        return [
            named("ConfigMap", "argocd-cm", data={**customizations, **fast}),
            named("ConfigMap", "argocd-rbac-cm"),
            named("Secret", "argocd-secret", stringData={"server.secretkey": os.urandom(16).hex()}),
            {
                **named("AppProject", "default", spec=project),
                "apiVersion": "argoproj.io/v1alpha1",
            },
        ]

    def start(self) -> None:
        """Start Redis, the repository server and the controller."""
        store, repositories = free_port(), free_port()
        self._run([redis(), "--port", str(store), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        shared = ["--redis", f"127.0.0.1:{store}", "--loglevel", "info", "--logformat", "json"]
        ports = ["--port", str(repositories), "--metrics-port", str(free_port())]
        ports += ["--revision-cache-expiration", "1s"]  # a commit is seen at the next look
        self._run(["argocd-repo-server", *ports, "--disable-tls", *shared])
        there = ["--repo-server", f"127.0.0.1:{repositories}", "--repo-server-plaintext"]
        sync = ["--app-resync", "5", "--self-heal-timeout-seconds", "2", "--metrics-port", str(free_port())]
        told = ["--persist-resource-health"]  # each model's health, for the tests to read
        self._run(["argocd-application-controller", "-n", NAMESPACE, *there, *sync, *told, *shared])

    def _run(self, command: list[str]) -> None:
        name = Path(command[0]).name
        environment = {**self._environment, "ARGOCD_BINARY_NAME": name}
        real = [str(self._binary), *command[1:]] if name.startswith("argocd") else command
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [*on_the_node(), *real], env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    def logs(self) -> str:
        """Return the last words of each process."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in self._folder.glob("*.log"))

    def stop(self) -> None:
        """End the processes."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
