"""Objects as a real API server and kubelet (v1.34) produced them, and small edits of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from slipway_api import names
from slipway_operator.kinds import Object
from slipway_operator.plan import Plan, make_plan
from slipway_operator.plan.render import LABEL_REVISION

RECORDED = Path(__file__).parent / "recorded"
IMAGE = "registry.example.com/slipway/engine:1"
NOW = "2026-01-02T03:04:05Z"


class Recorded:
    """Recorded and derived objects."""

    image = IMAGE
    now = NOW

    def load(self, name: str) -> Object:
        obj: Object = json.loads((RECORDED / f"{name}.json").read_text())
        return obj

    def parent(self, name: str = "chat", *, generation: int = 1, **spec: Any) -> Object:
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"uid-of-{name}",
                "generation": generation,
                "resourceVersion": "100",
            },
            "spec": {"model": {"source": "file:///models/tiny.gguf"}, **spec},
        }

    def plan(self, parent: Object) -> Plan:
        plan = make_plan(parent, IMAGE)
        assert isinstance(plan, Plan), plan
        return plan

    def pod(self, parent: Object, recorded: str = "pod-loading", *, name: str = "chat-1-a") -> Object:
        """Return a recorded pod as a pod of `parent`'s newest revision."""
        pod = copy.deepcopy(self.load(recorded))
        revision = self.plan(parent).revision
        pod["metadata"]["name"], pod["metadata"]["namespace"] = name, "team"
        pod["metadata"]["uid"] = f"uid-of-{name}"
        pod["metadata"]["labels"] = {**names.labels_of(parent["metadata"]["name"]), LABEL_REVISION: revision}
        return pod

    def ready(self, parent: Object, *, name: str = "chat-1-a") -> Object:
        pod = self.pod(parent, name=name)
        for condition in pod["status"]["conditions"]:
            condition["status"] = "True"
        pod["status"]["containerStatuses"][0]["ready"] = True
        return pod

    def leaving(self, pod: Object) -> Object:
        gone = copy.deepcopy(pod)
        gone["metadata"]["deletionTimestamp"] = NOW
        return gone

    def ended(
        self, parent: Object, terminated: Object, *, container: str = "engine", waiting: bool = True
    ) -> Object:
        """Return a pod whose container ended as `terminated` says and waits for its next start (or runs)."""
        pod = self.pod(parent)
        now = {
            "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}
        }
        status = {
            "name": container,
            "ready": False,
            "restartCount": 2,
            "state": now if waiting else {"running": {"startedAt": NOW}},
            "lastState": {"terminated": {"startedAt": NOW, "finishedAt": NOW, **terminated}},
        }
        if container == "engine":
            pod["status"]["containerStatuses"] = [status]
        else:
            pod["status"]["initContainerStatuses"] = [status]
            pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "PodInitializing"}}
        return pod

    def deployment(self, parent: Object, recorded: str | None = None, **status: Any) -> Object:
        """Return the Deployment of `parent`, with the status of a recorded one, or a settled one."""
        plan = self.plan(parent)
        rendered = next(child for kind, child in plan.children.items() if kind.kind == "Deployment")
        deployment = copy.deepcopy(dict(rendered))
        deployment["metadata"] |= {"generation": 1, "uid": "uid-of-deployment", "resourceVersion": "7"}
        settled = {"observedGeneration": 1, "replicas": plan.replicas, "updatedReplicas": plan.replicas}
        deployment["status"] = self.load(recorded)["status"] if recorded else settled
        deployment["status"] |= {"observedGeneration": 1, **status}
        return deployment


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    return Recorded()
