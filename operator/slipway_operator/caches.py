"""Model caches: who refers to which, and one cache at a time brought nearer to being filled, or to its end.

A cache belongs to no single object, so it has a key and a queue of its own. What objects ask for is told by
their reconciles and kept in memory alone: after a restart every object is reconciled once, and nothing is
deleted before that.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

from slipway_api.conditions import Reason
from slipway_operator.apply import Remember
from slipway_operator.diff import differs
from slipway_operator.errors import Denied, Invalid, Missing, NotPermitted, Terminal
from slipway_operator.explain.denials import explain_denial
from slipway_operator.explain.findings import Finding, clean
from slipway_operator.kinds import CLAIM, JOB, PARENT, POD, Key, Kind, Object, cache_key, key_of
from slipway_operator.moments import Clock, seconds_of, steady_clock, text_of
from slipway_operator.plan.cache import Progress, Step, View, Wish, next_step
from slipway_operator.problems import ApplyProblem, Result
from slipway_operator.store import Store

PROGRESS_SECONDS = 15.0
NEWS_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Api(Protocol):
    """The part of the API client that a cache needs."""

    def get(self, kind: Kind, key: Key) -> Awaitable[Object | None]:
        """Return one object, or None."""

    def apply(
        self, kind: Kind, key: Key, body: Object, *, subresource: str | None = None, force: bool = True
    ) -> Awaitable[Object]:
        """Server-side apply."""

    def delete(self, kind: Kind, obj: Object) -> Awaitable[None]:
        """Delete this very version of an object."""


Ask = Callable[[Object], Awaitable[Progress | None]]
"""Asks a pod how far its download has come; None where it does not say."""


class Caches:
    """All model caches of the namespaces that are served."""

    def __init__(
        self,
        store: Store,
        api: Api,
        remember: Remember,
        ask: Ask,
        enqueue: Callable[[Key], None],
        enqueue_parent: Callable[[Key], None],
        clock: Clock | None = None,
    ) -> None:
        self._store, self._api, self._remember, self._ask = store, api, remember, ask
        self._enqueue, self._enqueue_parent = enqueue, enqueue_parent
        self._clock = clock or steady_clock()
        self._referrers: defaultdict[Key, dict[Key, Wish | None]] = defaultdict(dict)
        self._referred: dict[Key, frozenset[Key]] = {}
        self._views: dict[Key, View] = {}

    @property
    def views(self) -> Mapping[Key, View]:
        """Return how the caches stand, as objects' plans read it."""
        return self._views

    def refer(self, parent: Key, wish: Wish | None, running: Collection[str]) -> None:
        """Take in what an object asks for, and which caches its pods mount."""
        asked: dict[Key, Wish | None] = {Key(parent.namespace, name): None for name in running}
        if wish is not None:
            asked[wish.key] = wish
        for key in self._referred.get(parent, frozenset()) - asked.keys():
            self._referrers[key].pop(parent, None)
            self._enqueue(key)
        for key, each in asked.items():
            referrers = self._referrers[key]
            if parent not in referrers or referrers[parent] != each:
                referrers[parent] = each
                self._enqueue(key)
        self._referred[parent] = frozenset(asked)

    def forget(self, parent: Key) -> None:
        """An object is gone."""
        self.refer(parent, None, ())
        self._referred.pop(parent, None)

    async def reconcile(self, key: Key) -> Result:
        """Bring one cache a step further. Raises OperatorError."""
        claim = self._store.get(CLAIM, key)
        jobs = [job for job in self._store.all(JOB) if _belongs(job, key)]
        pods = [pod for pod in self._store.all(POD) if _belongs(pod, key)]
        wishes = self._referrers.get(key, {})
        step = next_step(wishes, claim, jobs, pods, self._clock(), may_delete=self._all_asked())
        problem = await self._act(key, claim, step)
        self._tell(key, wishes, step, problem, await self._progress(step, pods))
        if not wishes:
            self._referrers.pop(key, None)
        waiting = PROGRESS_SECONDS if wishes and not step.filled else step.again
        return Result([problem] if problem is not None else [], waiting)

    async def _act(self, key: Key, claim: Object | None, step: Step) -> ApplyProblem | None:
        kind = CLAIM
        try:
            if step.claim is not None:
                await self._apply_claim(key, claim, step.claim)
            if step.job is not None:
                kind = JOB
                self._remember(JOB, await self._api.apply(JOB, key_of(step.job), step.job, force=False))
            if step.delete is not None:
                logger.info("deleting an unreferenced model cache", extra={"object": key})
                await self._api.delete(CLAIM, step.delete)
        except Missing:
            return None  # the claim, or the namespace, went away meanwhile
        except Denied as error:
            return ApplyProblem(kind, Reason.ADMISSION_DENIED, str(error), key.name)
        except (Invalid, Terminal, NotPermitted) as error:
            return ApplyProblem(kind, Reason.APPLY_FAILED, str(error), key.name)
        return None

    async def _apply_claim(self, key: Key, claim: Object | None, wanted: Object) -> None:
        live = claim or await self._api.get(CLAIM, key)
        if live is not None and cache_key(live) != key:
            raise Terminal(f"PersistentVolumeClaim {key} exists and is not a model cache; delete it")
        if live is None or differs(live, wanted):
            self._remember(CLAIM, await self._api.apply(CLAIM, key, wanted, force=live is not None))

    def _tell(
        self,
        key: Key,
        wishes: Mapping[Key, Wish | None],
        step: Step,
        problem: ApplyProblem | None,
        progress: Progress | None,
    ) -> None:
        """Keep how the cache stands, and wake those who wait for it."""
        if not wishes:
            self._views.pop(key, None)
            return
        before = self._views.get(key)
        finding = _explain(problem, key) if problem is not None else step.finding
        told = before.progress if before is not None else None
        shown = progress if _moved(told, progress) else told
        view = View(step.filled, finding, shown)
        self._views[key] = view
        if view != before:
            for parent in wishes:
                self._enqueue_parent(parent)

    async def _progress(self, step: Step, pods: Collection[Object]) -> Progress | None:
        if step.filled or step.finding is None:
            return None
        for pod in pods:
            if (pod.get("status") or {}).get("phase") == "Running":
                told = await self._ask(pod)
                if told is not None:
                    return replace(told, at=text_of(self._clock()))
        return None

    def _all_asked(self) -> bool:
        """Return whether every object was asked what it refers to since this operator leads."""
        return all(key in self._referred for key in self._store.keys(PARENT))


def _belongs(obj: Object, key: Key) -> bool:
    return cache_key(obj) == key


def _moved(before: Progress | None, now: Progress | None) -> bool:
    """Return whether a number is news: after half a minute, or after a twentieth of all."""
    if before is None or now is None:
        return True
    waited = (seconds_of(now.at) or 0.0) - (seconds_of(before.at) or 0.0)
    return waited >= NEWS_SECONDS or abs(now.fetched - before.fetched) * 20 >= (now.total or now.fetched)


def _explain(problem: ApplyProblem, key: Key) -> Finding:
    if problem.reason is Reason.ADMISSION_DENIED:
        return explain_denial(problem.message, key.namespace, what=f"{problem.kind.kind} is refused")
    command = f"kubectl -n {key.namespace} describe {problem.kind.plural} {key.name}"
    return Finding(problem.reason, clean(problem.message), command)
