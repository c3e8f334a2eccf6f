"""Everything the store knows about one LLMDeployment, taken at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipway_operator.kinds import CHILDREN, LLM_CLASS, PARENT, POD, Key, Kind, Object, controller_of, uid_of
from slipway_operator.store import Store


@dataclass(frozen=True)
class World:
    """One LLMDeployment with what belongs to it."""

    parent: Object
    children: Mapping[Kind, Object | None]
    pods: Sequence[Object]
    classes: Mapping[str, Object]


def observe(store: Store, key: Key) -> World | None:
    """Return the world of one LLMDeployment; None where there is nothing to do for it (any more)."""
    parent = store.get(PARENT, key)
    if parent is None or parent["metadata"].get("deletionTimestamp"):
        return None  # the garbage collector takes what it owned
    return World(
        parent=parent,
        children={kind: store.get(kind, key) for kind in CHILDREN},
        pods=[pod for pod in store.owned(POD, key) if _of_a_replica_set(pod)],
        classes={each.name: store.get(LLM_CLASS, each) or {} for each in store.keys(LLM_CLASS)},
    )


def _of_a_replica_set(pod: Object) -> bool:
    """Return whether a controller made the pod: one made by hand with our labels is not ours to explain."""
    controller = controller_of(pod)
    return controller is not None and controller.get("kind") == "ReplicaSet" and bool(uid_of(pod))
