"""What the operator knows about the cluster: a local copy of the watched objects, kept slim.

Fed by watch events, by the operator's own writes (visible at once, so that a reconcile never acts on what it
has just changed) and by a relist every few minutes that drops what a lost DELETED event left behind. An
older version never replaces a newer one, and what was deleted does not come back: the answer to a write may
arrive after the event of the deletion that followed it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from slipway_api import names
from slipway_operator.kinds import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    OWNED,
    PARENT,
    POD,
    SINGLE,
    WATCHED,
    Key,
    Kind,
    Object,
    key_of,
    parent_key,
    uid_of,
    version_of,
)
from slipway_operator.rivals import Claims

# How many deletions are remembered; an answer or a list is late by seconds, not by thousands of deletions.
BURIED = 4096
POD_SPEC_FIELDS = ("nodeName", "imagePullSecrets", "terminationGracePeriodSeconds")
# What is read of a Deployment's status; of its conditions, that its pods are refused.
DEPLOYMENT_STATUS_FIELDS = ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas")
REFUSED = "ReplicaFailure"


def slim(kind: Kind, obj: Object) -> Object:
    """Return `obj` without what no reconcile reads: foreign managed fields, most of a pod's spec and of the
    status of children. So a change of what is left is one that counts.

    Who scales an object through the scale subresource stays known.

    The data of a ControllerRevision is kept as text: it is large, and only read when it is planned with.
    """
    meta = dict(obj["metadata"])
    fields = [
        entry
        for entry in meta.pop("managedFields", ())
        if entry.get("manager") == names.FIELD_MANAGER or entry.get("subresource") == "scale"
    ]
    if fields and kind is not POD:
        meta["managedFields"] = fields
    slimmed = {**obj, "metadata": meta}
    if kind is POD:
        spec = obj.get("spec") or {}
        slimmed["spec"] = {name: spec[name] for name in POD_SPEC_FIELDS if name in spec}
        slimmed["spec"]["containers"] = [
            _accelerators(container) for container in spec.get("containers") or ()
        ]
    if kind is DEPLOYMENT and "status" in obj:
        slimmed["status"] = _deployment_status(obj["status"])
    if kind in SINGLE:
        slimmed.pop("status", None)
    if kind is CONTROLLER_REVISION and not isinstance(obj.get("data"), str):
        slimmed["data"] = json.dumps(obj.get("data"), separators=(",", ":"))
    return slimmed


def _deployment_status(status: Object) -> Object:
    kept = {name: status[name] for name in DEPLOYMENT_STATUS_FIELDS if name in status}
    refused = [each for each in status.get("conditions") or () if each.get("type") == REFUSED]
    return {**kept, "conditions": refused} if refused else kept


def _accelerators(container: Object) -> Object:
    """Return a container's name and its extended resources, which are what pods compete for."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return {"name": container["name"], "resources": {"limits": {k: v for k, v in limits.items() if "/" in k}}}


@dataclass
class Healed:
    """What a relist found to differ from the store."""

    parents: set[Key] = field(default_factory=set)
    """LLMDeployments whose objects changed, or the keys of the LLMClasses that did."""
    missed: list[Object] = field(default_factory=list)
    """Objects that the watch has not delivered in the version listed."""


class Store:
    """The local copy, by kind and key, with the owned objects also by the LLMDeployment they belong to."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[Key, Object]] = {kind: {} for kind in WATCHED}
        self._owned: dict[Kind, defaultdict[Key, set[Key]]] = {kind: defaultdict(set) for kind in OWNED}
        self._buried: dict[str, None] = {}
        self.claims = Claims()
        """Of model names, by the LLMDeployments here."""

    def get(self, kind: Kind, key: Key) -> Object | None:
        """Return one object, or None."""
        return self._objects[kind].get(key)

    def owned(self, kind: Kind, parent: Key) -> list[Object]:
        """Return the objects of a kind that belong to an LLMDeployment, by name."""
        return [self._objects[kind][key] for key in sorted(self._owned[kind].get(parent, ()))]

    def all(self, kind: Kind) -> Iterable[Object]:
        """Return all objects of a kind."""
        return tuple(self._objects[kind].values())

    def keys(self, kind: Kind) -> Iterator[Key]:
        """Return the keys of all objects of a kind."""
        return iter(tuple(self._objects[kind]))

    def size(self, kind: Kind) -> int:
        """Return the number of objects of a kind."""
        return len(self._objects[kind])

    def put(self, kind: Kind, obj: Object) -> bool:
        """Take in one object; return whether it was news."""
        key = key_of(obj)
        known = self._objects[kind].get(key)
        if uid_of(obj) in self._buried or (known is not None and not _newer(obj, known)):
            return False
        self._forget(kind, key)
        self._objects[kind][key] = slim(kind, obj)
        parent = parent_key(obj) if kind in OWNED else None
        if parent is not None:
            self._owned[kind][parent].add(key)
        if kind is PARENT:
            self.claims.put(obj)
        return True

    def drop(self, kind: Kind, obj: Object) -> bool:
        """Take out one object that was deleted; return whether it was there.

        A new object under the same name stays: the event is about its predecessor.
        """
        self._bury(uid_of(obj))
        key = key_of(obj)
        known = self._objects[kind].get(key)
        if known is None or uid_of(known) != uid_of(obj):
            return False
        self._forget(kind, key)
        return True

    def heal(self, kind: Kind, listed: Iterable[Object], as_of: int) -> Healed:
        """Compare with a complete list taken at resource version `as_of`; take in news, drop what is gone."""
        healed = Healed()
        seen: set[Key] = set()
        for obj in listed:
            seen.add(key_of(obj))
            if self.put(kind, obj):
                healed.missed.append(obj)
                healed.parents.add(self._parent_of(kind, obj))
        for key, known in list(self._objects[kind].items()):
            if key not in seen and version_of(known) <= as_of:
                healed.parents.add(self._parent_of(kind, known))
                healed.parents |= self.claims.rivals(key) if kind is PARENT else set()
                self._forget(kind, key)
        return healed

    def _bury(self, uid: str) -> None:
        if uid:
            self._buried[uid] = None
        if len(self._buried) > BURIED:
            del self._buried[next(iter(self._buried))]

    def _forget(self, kind: Kind, key: Key) -> None:
        known = self._objects[kind].pop(key, None)
        if kind is PARENT:
            self.claims.drop(key)
        parent = parent_key(known) if known is not None and kind in OWNED else None
        if parent is not None:
            siblings = self._owned[kind][parent]
            siblings.discard(key)
            if not siblings:
                del self._owned[kind][parent]

    @staticmethod
    def _parent_of(kind: Kind, obj: Object) -> Key:
        return (parent_key(obj) if kind in OWNED else None) or key_of(obj)


def _newer(obj: Object, known: Object) -> bool:
    """Return whether `obj` is another version than `known`, and no older one."""
    new, old = version_of(obj), version_of(known)
    if new and old:
        return new > old
    return _identity(obj) != _identity(known)


def _identity(obj: Object) -> tuple[str, Any]:
    return uid_of(obj), obj["metadata"].get("resourceVersion")
