"""Everything the store knows about one LLMDeployment, taken at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from slipway_operator.explain.capacity import holders_of, wanted_resources
from slipway_operator.explain.pods import condition_of
from slipway_operator.kinds import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    JOB,
    LLM_CLASS,
    PARENT,
    POD,
    SINGLE,
    Key,
    Object,
    controller_of,
    key_of,
    uid_of,
)
from slipway_operator.plan.cache import View
from slipway_operator.plan.world import World
from slipway_operator.store import Store


def observe(store: Store, key: Key, views: Mapping[Key, View], *, everywhere: bool = True) -> World | None:
    """Return the world of one LLMDeployment; None where there is nothing to do for it (any more).

    `everywhere` is whether the store knows the pods of all namespaces.
    """
    parent = store.get(PARENT, key)
    if parent is None or parent["metadata"].get("deletionTimestamp"):
        return None  # the garbage collector takes what it owned
    pods = [pod for pod in store.owned(POD, key) if _of_a_replica_set(pod)]
    scarce = wanted_resources(pods)
    return World(
        parent=parent,
        children={kind: store.get(kind, key) for kind in SINGLE},
        deployments=store.owned(DEPLOYMENT, key),
        revisions=store.owned(CONTROLLER_REVISION, key),
        pods=pods,
        classes={each.name: store.get(LLM_CLASS, each) or {} for each in store.keys(LLM_CLASS)},
        jobs=store.owned(JOB, key),
        job_pods=[pod for pod in store.owned(POD, key) if not _of_a_replica_set(pod)],
        views=views,
        ahead=_ahead(store, parent),
        holders=holders_of(scarce, key, store.all(POD), everywhere=everywhere) if scarce else "",
        taken=store.claims.taken(key),
    )


def _ahead(store: Store, parent: Object) -> int:
    """Return how many other objects of the same class roll, or are outdated too and come first by name."""
    status = parent.get("status") or {}
    if condition_of(parent, "UpToDate").get("status") != "False" or not status.get("className"):
        return 0
    return sum(
        _rolls(other)
        or (condition_of(other, "UpToDate").get("status") == "False" and key_of(other) < key_of(parent))
        for other in store.all(PARENT)
        if (other.get("status") or {}).get("className") == status["className"] and other is not parent
    )


def _rolls(obj: Object) -> bool:
    """Return whether an object has pods of two revisions."""
    return len((obj.get("status") or {}).get("revisions") or ()) > 1


def _of_a_replica_set(pod: Object) -> bool:
    """Return whether a controller made the pod: one made by hand with our labels is not ours to explain."""
    controller = controller_of(pod)
    return controller is not None and controller.get("kind") == "ReplicaSet" and bool(uid_of(pod))
