"""What the commands about one deployment know of it: the object, what it owns, its pods and their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slipway_api import names
from slipway_operator.kinds import DEPLOYMENT, EVENT, PARENT, POD, Object, key_of, uid_of
from slipway_operator.plan.revision import LABEL_REVISION
from slipway_operator.plugin.kubectl import Kubectl

NO_REVISION: Final = "-"


@dataclass(frozen=True)
class Facts:
    """One deployment as the cluster shows it now."""

    parent: Object
    workloads: Sequence[Object]
    pods: Sequence[Object]
    events: Sequence[Object]

    @property
    def status(self) -> Mapping[str, Any]:
        """Return the object's status."""
        return self.parent.get("status") or {}

    def condition(self, kind: str) -> Mapping[str, Any]:
        """Return a condition, empty where there is none."""
        found = (c for c in self.status.get("conditions") or () if c.get("type") == kind)
        return next(found, {})

    @property
    def seen(self) -> bool:
        """Return whether the operator has looked at the object as it is now."""
        return bool(self.status.get("observedGeneration") == self.parent["metadata"].get("generation"))

    def revisions(self) -> dict[str, list[Object]]:
        """Return the pods by their revision, revisions without a pod included."""
        found: dict[str, list[Object]] = {revision_of(workload): [] for workload in self.workloads}
        for pod in self.pods:
            found.setdefault(revision_of(pod), []).append(pod)
        return found


def gather(cluster: Kubectl, name: str) -> Facts:
    """Read everything about one deployment. Raises PluginError where there is none of this name."""
    parent = cluster.get(PARENT, name)
    selector = ",".join(f"{key}={value}" for key, value in names.selector_of(name).items())
    workloads = cluster.find(DEPLOYMENT, selector=selector)
    pods = cluster.find(POD, selector=selector)
    uids = {uid_of(obj) for obj in (parent, *workloads, *pods)}
    warnings = cluster.find(EVENT, fields="type=Warning")
    events = [event for event in warnings if (event.get("involvedObject") or {}).get("uid") in uids]
    return Facts(parent, workloads, pods, sorted(events, key=when))


def revision_of(obj: Mapping[str, Any]) -> str:
    """Return the revision that a workload or pod belongs to."""
    template = ((obj.get("spec") or {}).get("template") or {}).get("metadata") or {}
    for labels in (obj["metadata"].get("labels"), template.get("labels")):
        if labels and LABEL_REVISION in labels:
            return str(labels[LABEL_REVISION])
    return NO_REVISION


def when(event: Mapping[str, Any]) -> str:
    """Return when an event was last seen, as RFC 3339."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or "")


def describe_event(event: Mapping[str, Any]) -> str:
    """Return an event as one line."""
    about = event.get("involvedObject") or {}
    times = event.get("count") or (event.get("series") or {}).get("count") or 1
    often = f" ({times} times)" if times > 1 else ""
    text = " ".join(str(event.get("message") or "").split())
    return f"{about.get('kind')}/{about.get('name')}: {event.get('reason')}: {text}{often}"


def place(obj: Mapping[str, Any]) -> str:
    """Return namespace/name."""
    return str(key_of(obj))
