"""One run: the object, the load, and what became of the replicas, the queue and the requests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.autoscaling import objects
from benchmarks.autoscaling.objects import NAME, NAMESPACE, ROOT, SYSTEM
from e2e import monitoring

LOOK_SECONDS = 2.0
FRESH_SECONDS = 15
BURST = 24
POLICIES = ("slipway", "hpa")


@dataclass(frozen=True)
class Task:
    """What a run does."""

    policy: str
    phases: str
    tokens: int
    cpu: str
    seed: int


class Kubectl:
    """kubectl of the cluster tool's cluster."""

    def __init__(self) -> None:
        self._command = [tool("kubectl"), "--kubeconfig", tool("kubeconfig")]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run it; raises RuntimeError with what it wrote where it fails."""
        done = subprocess.run(
            [*self._command, *arguments], input=stdin, text=True, capture_output=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Return what it printed with `-o json`."""
        return json.loads(self(*arguments, "-o", "json"))


def tool(*arguments: str) -> str:
    """Run the cluster tool; its progress goes to the terminal."""
    command = [sys.executable, "-m", "e2e.cluster", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def prepare() -> None:
    """Start the cluster and install everything."""
    tool("up")
    images = json.loads(tool("images", "operator", "gateway", "engine", "-o", "json"))
    tool("load", *(image["archive"] for image in images.values()))
    refs = {name: image["ref"] for name, image in images.items()}
    values = {
        "operator.image": refs["operator"],
        "engine.image": refs["engine"],
        "gateway.enabled": "true",
        "gateway.image": refs["gateway"],
        "gateway.replicas": "1",
        "gateway.authMode": "none",
        "prometheus.url": monitoring.PROMETHEUS_URL,
        "prometheus.freshSeconds": str(FRESH_SECONDS),
    }
    command = [tool("helm"), "upgrade", "--install", "slipway", str(ROOT / "charts" / "slipway")]
    command += ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "5m"]
    command += ["--kubeconfig", tool("kubeconfig")]
    command += [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    monitoring.install(Kubectl(), refs["gateway"], {objects.METRIC: objects.QUEUE})


def run(kubectl: Kubectl, task: Task) -> dict[str, Any]:
    """Apply the object, let the load come and go, and return what happened."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    _apply(kubectl, namespace)
    clear(kubectl)
    _apply(kubectl, objects.deployment(task.cpu, ours=task.policy == "slipway"))
    if task.policy == "hpa":
        _apply(kubectl, objects.hpa())
    kubectl("wait", "-n", NAMESPACE, f"llmdep/{NAME}", "--for=condition=Ready", "--timeout=240s")
    _until_measured(kubectl)
    _apply(kubectl, *objects.client(_image(kubectl), task.phases, task.tokens, task.seed))
    seconds = sum(float(phase.split(":")[0]) for phase in task.phases.split(","))
    replicas = _watch(kubectl, seconds + 150)
    lines = [json.loads(line) for line in kubectl("logs", "-n", SYSTEM, "load").splitlines()]
    began = next(line["began"] for line in lines if "began" in line)
    return {
        "policy": task.policy,
        "phases": [[float(part) for part in phase.split(":")] for phase in task.phases.split(",")],
        "tokens": task.tokens,
        "cpu": task.cpu,
        "replicas": [[round(at - began, 1), *row] for at, *row in replicas],
        "queue": _queue(kubectl, began, seconds),
        "requests": sorted((line for line in lines if "at" in line), key=lambda line: line["at"]),
        "said": _said(kubectl, task.policy),
    }


def calibrate(kubectl: Kubectl, tokens: int, cpu: str) -> float:
    """Return how many requests a second one replica finishes when it is full."""
    _apply(kubectl, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    clear(kubectl)
    _apply(kubectl, objects.deployment(cpu, ours=False))
    kubectl("wait", "-n", NAMESPACE, f"llmdep/{NAME}", "--for=condition=Ready", "--timeout=240s")
    _apply(kubectl, *objects.client(_image(kubectl), "", tokens, 0, BURST))
    _watch(kubectl, 240)
    lines = [json.loads(line) for line in kubectl("logs", "-n", SYSTEM, "load").splitlines()]
    ended = sorted(line["seconds"] for line in lines if "at" in line and not line["error"])
    if len(ended) < BURST:
        raise RuntimeError(f"{BURST - len(ended)} of {BURST} requests to one replica failed: {lines[-2]}")
    # The first batch pays for the start of everything; the last one runs half empty.
    first, last = ended[objects.SEQUENCES], ended[-objects.SEQUENCES]
    return float((BURST - 2 * objects.SEQUENCES) / (last - first))


def _image(kubectl: Kubectl) -> str:
    """Return the gateway's image, in which clients run."""
    found = kubectl.json("get", "deployment", "slipway-gateway", "-n", SYSTEM)
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def clear(kubectl: Kubectl) -> None:
    """Take away what an earlier run left."""
    kubectl("delete", "hpa,llmdep", "--all", "-n", NAMESPACE, "--wait", "--timeout=120s")
    kubectl("delete", "pod,configmap", "load", "-n", SYSTEM, "--ignore-not-found", "--wait")
    deadline = time.monotonic() + 120
    while kubectl("get", "pods", "-n", NAMESPACE, "-o", "name") and time.monotonic() < deadline:
        time.sleep(1)


def _apply(kubectl: Kubectl, *found: dict[str, Any]) -> None:
    monitoring.stack.apply(kubectl, list(found))


def _until_measured(kubectl: Kubectl) -> None:
    """Wait until Prometheus has the first pod's samples."""
    deadline = time.monotonic() + 90
    while not _ask(kubectl, "query", query=_filled('up{job="engines",deployment="$deployment"} == 1')):
        if time.monotonic() > deadline:
            raise RuntimeError(
                "Prometheus has no samples of the engine's pod after 90 s; look at its targets."
            )
        time.sleep(2)


def _watch(kubectl: Kubectl, seconds: float) -> list[list[float]]:
    """Return (time, replicas asked for, ready ones) until the client is done."""
    rows, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        began = time.monotonic()
        found = kubectl.json("get", "deployments", "-n", NAMESPACE)["items"]
        asked = sum(one["spec"]["replicas"] for one in found)
        ready = sum(one.get("status", {}).get("readyReplicas", 0) for one in found)
        rows.append([time.time(), asked, ready])
        if len(rows) % 5 == 0:
            phase = kubectl.json("get", "pod", "load", "-n", SYSTEM)["status"]["phase"]
            if phase in ("Succeeded", "Failed"):
                return rows
        time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - began)))
    raise RuntimeError(f"The client did not end within {seconds:.0f} s.")


def _queue(kubectl: Kubectl, began: float, seconds: float) -> list[list[float]]:
    """Return (second, requests that wait) from Prometheus, the very metric that the HPA is given."""
    found = _ask(
        kubectl,
        "query_range",
        query=_filled(objects.QUEUE),
        start=began,
        end=began + seconds,
        step=LOOK_SECONDS,
    )
    return [[round(at - began, 1), float(value)] for one in found for at, value in one["values"]]


def _ask(kubectl: Kubectl, path: str, **parameters: Any) -> list[Any]:
    """Ask Prometheus through the API server's proxy, which works from any place."""
    place = f"/api/v1/namespaces/{monitoring.NAMESPACE}/services/prometheus:9090/proxy/api/v1/{path}"
    answer = json.loads(kubectl("get", "--raw", f"{place}?{urllib.parse.urlencode(parameters)}"))
    found: list[Any] = answer["data"]["result"]
    return found


def _filled(query: str) -> str:
    return query.replace("$namespace", NAMESPACE).replace("$deployment", NAME)


def _said(kubectl: Kubectl, policy: str) -> list[str]:
    """Return what each autoscaler says of what it did, oldest first."""
    kind = "LLMDeployment" if policy == "slipway" else "HorizontalPodAutoscaler"
    events = kubectl.json("get", "events", "-n", NAMESPACE)["items"]
    mine = [event for event in events if event["involvedObject"]["kind"] == kind]
    mine.sort(key=lambda event: event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])
    return [f"{event['reason']}: {event['message']}"[:300] for event in mine]


def save(result: dict[str, Any], folder: Path) -> Path:
    """Write a run's data."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result['policy']}.json"
    file.write_text(json.dumps(result, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    return file
