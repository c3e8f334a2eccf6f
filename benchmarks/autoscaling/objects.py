"""What is applied: the deployment, the HPA with the same words of `behavior`, and the client's pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
NAMESPACE = "bench-autoscaling"
NAME = "elastic"
SYSTEM = "slipway-system"
METRIC = "slipway-queue-depth"
QUEUE = (
    'sum({__name__="slipway:num_requests_waiting",namespace="$namespace",deployment="$deployment"})'
    ' + sum(slipway_gateway_held_requests{namespace="$namespace",deployment="$deployment"} or vector(0))'
)
"""Requests that wait, in the engines and before them."""
MAXIMUM = 4
SEQUENCES = 4
QUEUE_TARGET = 4
BEHAVIOR = {
    "scaleDown": {
        "stabilizationWindowSeconds": 60,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    }
}
"""Both scale down after a minute instead of five, so that a run takes minutes; up as each does by itself."""


def deployment(cpu: str, *, ours: bool) -> dict[str, Any]:
    """Return the object; `ours` says whether it scales itself. A replica's share of the CPU is bounded."""
    obj: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "smollm2.yaml").read_text())
    obj["metadata"] = {"name": NAME, "namespace": NAMESPACE}
    spec = obj["spec"]
    spec["engine"] = {"maxModelLen": 512, "maxNumSeqs": SEQUENCES}
    spec["rollout"] = {"drainSeconds": 60}
    spec["podTemplate"]["resources"] = {
        "requests": {"cpu": "100m", "memory": "512Mi"},
        "limits": {"cpu": cpu, "memory": "3Gi"},
    }
    if ours:
        spec["autoscaling"] = {"minReplicas": 1, "maxReplicas": MAXIMUM, "behavior": BEHAVIOR}
    return obj


def hpa(name: str = NAME, namespace: str = NAMESPACE, most: int = MAXIMUM) -> dict[str, Any]:
    """Return a HorizontalPodAutoscaler on the queue's depth."""
    target = {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMDeployment", "name": name}
    metric = {
        "metric": {"name": METRIC, "selector": {"matchLabels": {"deployment": name}}},
        "target": {"type": "AverageValue", "averageValue": str(QUEUE_TARGET)},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": 1,
            "maxReplicas": most,
            "metrics": [{"type": "External", "external": metric}],
            "behavior": BEHAVIOR,
        },
    }


def client(image: str, phases: str, tokens: int, seed: int, burst: int = 0) -> list[dict[str, Any]]:
    """Return the client's program and pod."""
    place = {"name": "load", "namespace": SYSTEM}
    env = {
        "URL": f"http://slipway-gateway.{SYSTEM}/v1/chat/completions",
        "MODEL": f"{NAMESPACE}/{NAME}",
        "PHASES": phases,
        "TOKENS": str(tokens),
        "SEED": str(seed),
        "BURST": str(burst),
    }
    container = {
        "name": "client",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/load/load.py"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "volumeMounts": [{"name": "load", "mountPath": "/load"}],
    }
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "load", "configMap": {"name": "load"}}],
    }
    program = Path(__file__).with_name("load.py").read_text(encoding="utf-8")
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": {"load.py": program}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": place, "spec": spec},
    ]
