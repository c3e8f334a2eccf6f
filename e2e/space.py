"""The LLMDeployments of one namespace: to apply, to change, to wait for, and to compare with others."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from e2e.conftest import wait_until
from e2e.local_operator import LocalOperator

CHILDREN: Final = "deployments,controllerrevisions,services,poddisruptionbudgets,networkpolicies"
# What the API server and the controllers keep books of, and what differs from one object to the next.
BOOKS: Final = {
    "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "clusterIP", "clusterIPs",
    "observedGeneration",
}  # fmt: skip


class Space:
    """The objects of one namespace, and what is true of them now."""

    def __init__(self, kube: Any, name: str, nodes: str, operator: LocalOperator | None = None) -> None:
        self.kube, self.name, self.nodes, self.operator = kube, name, nodes, operator

    def __call__(self, *arguments: str, **more: Any) -> Any:
        """Run kubectl in the namespace."""
        return self.kube("-n", self.name, *arguments, **more)

    def apply(self, name: str = "chat", **spec: Any) -> None:
        """Apply an object whose pods go to the played node."""
        pod = {
            "nodeSelector": {"slipway.dev/fake": self.nodes},
            "tolerations": [{"key": "slipway.dev/fake", "operator": "Exists"}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}},
        }
        # A name of its own: two objects that claim one name do not end alike.
        model = {"source": "file:///models/none.gguf", "servedNames": [f"{name}-{self.name}"]}
        spec = {"model": model, "podTemplate": pod, "replicas": 2, **spec}
        spec["rollout"] = {"drainSeconds": 0, **spec.get("rollout", {})}
        meta = {"name": name, "namespace": self.name}
        version = "slipway.dev/v1alpha1"
        self.kube.apply({"apiVersion": version, "kind": "LLMDeployment", "metadata": meta, "spec": spec})

    def patch(self, name: str = "chat", **spec: Any) -> None:
        """Change fields of an object's spec."""
        self("patch", "llmdep", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def status(self, name: str = "chat") -> Any:
        """Return an object's status; empty where it has none."""
        return self.kube.get("llmdep", name, self.name).get("status") or {}

    def told(self, reason: str, name: str = "chat", timeout: float = 150) -> str:
        """Wait for the reason of Ready; return its sentence. An operator that has ended is started again."""

        def probe() -> Any:
            if self.operator is not None:
                self.operator.revive()
            obj = self.kube.get("llmdep", name, self.name)
            status = obj.get("status") or {}
            ready: Any = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
            seen.append(f"{ready.get('reason')}: {ready.get('message')}")
            current = status.get("observedGeneration") == obj["metadata"]["generation"]
            one = reason != "Ready" or len(self._owned("deployments", name)) == 1
            return current and one and ready.get("reason") == reason and ready["message"]

        seen: list[str] = []
        try:
            return str(wait_until(f"{reason} of {name}", probe, timeout, every=0.2))
        except AssertionError as error:
            raise AssertionError(f"{error}; told: {list(dict.fromkeys(seen))}") from None

    def _owned(self, kinds: str, name: str) -> Any:
        return self("get", kinds, "-l", f"slipway.dev/deployment={name}", json=True)["items"]

    def state(self, name: str = "chat") -> list[str]:
        """Return the object's status and its children, without what no two objects have in common."""
        obj = self.kube.get("llmdep", name, self.name)
        children = [prune(child) for child in self._owned(CHILDREN, name)]
        for child in children:
            if child["kind"] not in ("ControllerRevision", "LLMDeployment"):
                child.pop("status", None)
        revisions = sorted((c["revision"], c["metadata"]["name"]) for c in children if "revision" in c)
        text = json.dumps([prune(obj["status"]), *children], sort_keys=True)
        for number, (_, revision) in enumerate(revisions):
            text = text.replace(revision.removeprefix(f"{name}-"), f"REVISION{number}")
        text = re.sub(rf"\b{name}\b", "NAME", text.replace(self.name, "NAMESPACE"))
        return sorted(map(json.dumps, json.loads(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text))))


def prune(value: Any) -> Any:
    """Return a value without what only differs from one object to the next."""
    if isinstance(value, dict):
        return {key: prune(each) for key, each in value.items() if key not in BOOKS}
    return [prune(each) for each in value] if isinstance(value, list) else value
