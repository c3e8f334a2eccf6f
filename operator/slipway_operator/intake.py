"""How news of the cluster come in: watch events, own writes and relists meet in the store, and queue work."""

from __future__ import annotations

import time
from collections.abc import Callable

from slipway_api import names
from slipway_operator.freshness import Freshness
from slipway_operator.kinds import LLM_CLASS, PARENT, Key, Kind, Object, cache_key, key_of, parent_key
from slipway_operator.metrics import Metrics
from slipway_operator.store import Store
from slipway_operator.workqueue import WorkQueue


class Intake:
    """The one door through which objects get into the store."""

    def __init__(
        self,
        store: Store,
        queue: WorkQueue[Key],
        caches: WorkQueue[Key],
        freshness: Freshness,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._queue, self._freshness, self._metrics = store, queue, freshness, metrics
        self._caches = caches
        self._clock = clock

    def take(self, kind: Kind, event: str | None, obj: Object) -> None:
        """Take in a watch event. `event` is None for an object of the initial list."""
        deleted = event == "DELETED"
        self._metrics.events.labels(kind.plural).inc()
        self._freshness.deliver(kind, obj, self._clock(), deleted=deleted)
        before = self._store.get(kind, key_of(obj))
        rivals = self._rivals(kind, obj)
        changed = self._store.drop(kind, obj) if deleted else self._store.put(kind, obj)
        if changed and kind is LLM_CLASS:
            self._enqueue_class(key_of(obj).name)
        elif changed and (deleted or matters(kind, before, self._as_compared(kind, obj))):
            self._enqueue(kind, obj, first=kind is PARENT)
            # Who held a name, or holds it now, is news to those who claim it too.
            for key in rivals | self._rivals(kind, obj):
                self._queue.add(key)
            if before is not None:
                self._enqueue(kind, before)  # an edit may have taken away the label that names the parent

    def _rivals(self, kind: Kind, obj: Object) -> set[Key]:
        return self._store.claims.rivals(key_of(obj)) if kind is PARENT else set()

    def _is_behind(self, key: Key) -> bool:
        """Return whether an LLMDeployment was written since its status was."""
        parent = self._store.get(PARENT, key) or {"metadata": {}}
        seen = (parent.get("status") or {}).get("observedGeneration")
        return bool(seen != parent["metadata"].get("generation"))

    def _as_compared(self, kind: Kind, obj: Object) -> Object:
        """Return an object as the store holds it; of a parent, the managed fields of others count too."""
        return obj if kind is PARENT else self._store.get(kind, key_of(obj)) or obj

    def remember(self, kind: Kind, obj: Object) -> None:
        """Take in an object as the API server answered it: the watch has to bring the same soon."""
        if self._store.put(kind, obj):
            self._freshness.expect(kind, obj, self._clock())

    def heal(self, kind: Kind, listed: list[Object], as_of: int) -> None:
        """Compare the store with complete lists; queue what was found changed."""
        healed = self._store.heal(kind, listed, as_of)
        now = self._clock()
        for obj in healed.missed:
            self._freshness.expect(kind, obj, now)
        self._metrics.healed.labels(kind.plural).inc(len(healed.missed))
        self._freshness.listed(kind, {key_of(obj) for obj in listed}, now)
        for key in healed.parents:
            if kind is LLM_CLASS:
                self._enqueue_class(key.name)
            else:
                self._queue.add(key, first=kind is PARENT and self._is_behind(key))

    def unanswered(self, kind: Kind) -> None:
        """A list failed: the API server, not the watch, is at fault."""
        self._freshness.unanswered(kind, self._clock())

    def suspects(self, kind: Kind) -> bool:
        """Return whether a list of `kind` should be taken early."""
        return self._freshness.suspects(kind, self._clock())

    def _enqueue_class(self, name: str) -> None:
        """Queue every LLMDeployment that a class can concern: a default class concerns who names none."""
        for key in self._store.keys(PARENT):
            parent = self._store.get(PARENT, key) or {}
            if (parent.get("spec") or {}).get("className") in (None, name):
                self._queue.add(key)

    def _enqueue(self, kind: Kind, obj: Object, *, first: bool = False) -> None:
        key = key_of(obj) if kind is PARENT else parent_key(obj)
        if key is not None:
            self._queue.add(key, first=first)
        cache = cache_key(obj)
        if cache is not None:
            self._caches.add(cache)


def matters(kind: Kind, before: Object | None, after: Object) -> bool:
    """Return whether a change of what the store holds is worth a reconcile.

    Of an LLMDeployment only the spec (its generation) and its deletion are, and its status where somebody
    else has written it: our own status writes queue nothing. Of everything else another version alone is not,
    where nothing changed that the store keeps.
    """
    if before is None:
        return True
    if kind is not PARENT:
        return _content(before) != _content(after)
    if _essence(before) != _essence(after):
        return True
    return _foreign_status(after) and before.get("status") != after.get("status")


def _content(obj: Object) -> Object:
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}}


def _essence(parent: Object) -> tuple[object, ...]:
    meta = parent["metadata"]
    return meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp")


def _foreign_status(parent: Object) -> bool:
    return any(
        entry.get("subresource") == "status" and entry.get("manager") != names.FIELD_MANAGER
        for entry in parent["metadata"].get("managedFields") or ()
    )
