"""The loop: look, decide, and let the object's next reconcile write. It writes no replicas itself.

Decisions are remembered here alone; a new operator begins with what the cluster and the status say, and with
a window that holds the present number, so that nothing is taken away before the window has passed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

from slipway_operator.autoscale import kept, tell
from slipway_operator.autoscale.bounds import bounds_of, capped, least_of, query_name
from slipway_operator.autoscale.capacity import capacity
from slipway_operator.autoscale.load import Load
from slipway_operator.autoscale.policy import decide
from slipway_operator.autoscale.replicas import COST, FIRST_TO_GO, rolling, to_go
from slipway_operator.autoscale.terms import PERIOD, Bounds, Decision
from slipway_operator.errors import UNFORESEEN, OperatorError
from slipway_operator.explain.pods import is_leaving, is_ready
from slipway_operator.kinds import DEPLOYMENT, PARENT, POD, Key, Kind, Object, controller_of, key_of, uid_of
from slipway_operator.moments import Clock, steady_clock
from slipway_operator.plan import Plan, Refusal, World
from slipway_operator.plan.world import Scaled
from slipway_operator.scaling.counters import Counters
from slipway_operator.scaling.state import State, Target, revived
from slipway_operator.signals.source import Asked, Seen, Source
from slipway_operator.store import Store

AT_ONCE: Final = 32
NO_GATEWAY: Final = "minReplicas 0 acts as 1: the operator was told of no gateway that could hold requests."

logger = logging.getLogger(__name__)


class Api(Protocol):
    """The part of the API client that the autoscaler needs."""

    def apply(
        self, kind: Kind, key: Key, body: Object, *, subresource: str | None = None, force: bool = True
    ) -> Awaitable[Object]:
        """Server-side apply."""

    def create_event(self, about: Object, reason: str, message: str, *, warning: bool) -> Awaitable[None]:
        """Write a Kubernetes event about an object."""


class Holds(Protocol):
    """Who knows of the requests that gateways hold."""

    def held(self, key: Key) -> float | None:
        """Return the requests held for an object; None where no gateway says."""


class Autoscaler:
    """Decides on the replicas of every object that sets `autoscaling`."""

    def __init__(
        self,
        store: Store,
        api: Api,
        source: Source,
        enqueue: Callable[[Key], None],
        counters: Counters,
        holds: Holds | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store, self._api, self._source, self._holds = store, api, source, holds
        self._enqueue, self._counters, self._clock = enqueue, counters, clock or steady_clock()
        self._states: dict[Key, State] = {}
        self._locks: dict[Key, asyncio.Lock] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._urgent: set[asyncio.Task[None]] = set()

    def of(self, world: World) -> Scaled | None:
        """Return the last decision for an object; None where the object decides itself."""
        key = key_of(world.parent)
        if not (world.parent.get("spec") or {}).get("autoscaling"):
            self.forget(key)
            return None
        state = self._states.get(key)
        if state is None or state.uid != uid_of(world.parent):
            state = self._states[key] = revived(world)
        state.parked = world.parent["spec"].get("suspend") is True
        return state.scaled(world.pods)

    def take(self, key: Key, plan: Plan | Refusal) -> None:
        """Take in what an object asks for now. A refused or parked one is left as it is."""
        state = self._states.get(key)
        if state is None:
            return
        state.target = None
        if isinstance(plan, Refusal):
            return
        if plan.suspended:
            state.desired = max(1, state.desired)
        elif plan.spec.autoscaling is not None:
            state.desired = plan.replicas
            values = plan.values
            state.target = Target(
                plan.spec.autoscaling,
                plan.spec.slo,
                values.max_num_seqs,
                values.profile,
                capped=values.capped_by_nodes,
            )

    def forget(self, key: Key) -> None:
        """An object is gone, or decides itself."""
        if self._states.pop(key, None) is not None:
            self._locks.pop(key, None)
            self._source.forget(key)
            self._counters.forget(key)

    def wake(self, keys: Collection[Key]) -> None:
        """Requests for these objects began to be held: decide on them now."""
        for key in self._states.keys() & set(keys):
            task = asyncio.create_task(self._decide(key))
            self._urgent.add(task)
            task.add_done_callback(self._urgent.discard)

    async def run(self) -> None:
        """Decide until cancelled."""
        try:
            while True:
                began = time.monotonic()
                await asyncio.gather(*(self._decide(key) for key in tuple(self._states)))
                took = time.monotonic() - began
                self._counters.seconds.observe(took)
                await asyncio.sleep(max(0.0, PERIOD - took))
        finally:
            await self._source.close()

    async def _decide(self, key: Key) -> None:
        try:
            await self._look(key)
        except UNFORESEEN:
            logger.exception("a defect of the operator; the replicas stay as they are", extra={"object": key})

    async def _look(self, key: Key) -> None:
        async with self._room, self._locks.setdefault(key, asyncio.Lock()):
            state, parent = self._states.get(key), self._store.get(PARENT, key)
            if state is None or state.target is None or parent is None or uid_of(parent) != state.uid:
                return
            pods = [pod for pod in self._store.owned(POD, key) if _counts(pod)]
            asked = _asked(key, state.target, pods)
            if state.ignorant and pods:
                state.recall(await self._source.past(asked, self._clock()))
            seen = await self._source.look(asked, self._clock())
            if self._states.get(key) is state and state.target is not None:
                await self._judge(key, parent, state, state.target, pods, seen)

    async def _judge(
        self, key: Key, parent: Object, state: State, target: Target, pods: list[Object], seen: Seen
    ) -> None:
        now = self._clock()
        try:
            bounds = bounds_of(target.spec, target.slo, target.max_num_seqs, now)
        except ValueError as error:
            logger.warning("%s", error, extra={"object": key})  # refused by the planner already
            return
        if target.capped:
            bounds = capped(bounds, pods)
        state.watch_starts(pods)
        deployments = self._store.owned(DEPLOYMENT, key)
        load = self._load(key, parent, state, deployments, pods, seen, now)
        decision, memory = decide(bounds, state.memory, load)
        bears, bound = capacity(memory.learned, bounds.max_num_seqs, bounds.tpot)
        before = state.desired
        if 0 < decision.replicas < before:
            await self._choose(pods, seen, before - decision.replicas)
        learned = kept.kept(memory.learned, bears, bound, state.start)
        news = state.note(decision, memory, load, learned)
        problems = seen.problems or tell.silent(load)
        told = tell.active(decision, bounds, problems, self._notes(target, bounds))
        told = tell.contested(told, tell.conflict(parent, deployments))
        said = state.says(told, at_once=decision.replicas != before)
        self._counters.note(key, decision, load, bears)
        if news or said:
            self._enqueue(key)
        await self._record(key, parent, before, decision, told if said else None)

    def _load(
        self,
        key: Key,
        parent: Object,
        state: State,
        deployments: list[Object],
        pods: list[Object],
        seen: Seen,
        now: float,
    ) -> Load:
        return Load(
            now=now,
            current=state.desired,
            ready=sum(is_ready(pod) for pod in pods),
            pods=seen.pods,
            held=self._holds.held(key) if self._holds else None,
            ttft=seen.ttft,
            values=tuple(seen.values.items()),
            rolling=rolling(parent, deployments),
            ready_seconds=state.start,
            fresh_for=self._source.fresh_for,
            gateway=self._holds is not None,
        )

    def _notes(self, target: Target, bounds: Bounds) -> list[str]:
        alone = self._holds is None and least_of(target.spec) == 0 and bounds.minimum == 0
        return [NO_GATEWAY] if alone else []

    async def _choose(self, pods: list[Object], seen: Seen, count: int) -> None:
        """Mark the least loaded pods as the first to go; where that fails, Kubernetes chooses."""
        mark, clear = to_go(pods, {load.name: load for load in seen.pods}, count)
        for pod, marks in [
            *((pod, {COST: FIRST_TO_GO}) for pod in mark),
            *((pod, {}) for pod in clear),
        ]:
            meta = pod["metadata"]
            body = {
                "apiVersion": POD.api_version,
                "kind": POD.kind,
                "metadata": {
                    "name": meta["name"],
                    "namespace": meta.get("namespace", ""),
                    "uid": uid_of(pod),
                    "annotations": marks,
                },
            }
            try:
                await self._api.apply(POD, key_of(pod), body)
            except OperatorError as error:
                logger.warning("the first pod to go was not marked: %s", error, extra={"object": key_of(pod)})

    async def _record(
        self, key: Key, parent: Object, before: int, decision: Decision, said: tell.Told | None
    ) -> None:
        """Write events: one for every change of the number, one where the metrics cannot be read."""
        events = []
        if decision.replicas != before:
            text = f"{before} -> {decision.replicas} replicas: {decision.text}"
            logger.info("%s", text, extra={"object": key})
            events.append((decision.why.value, text, False))
        if said is not None and said[0] == "False":
            events.append((said[1].value, said[2], True))
        for reason, text, warning in events:
            try:
                await self._api.create_event(parent, reason, text, warning=warning)
            except OperatorError as error:
                logger.info("an event was not written: %s", error, extra={"object": key})


def _counts(pod: Object) -> bool:
    """Return whether a pod is one of a Deployment's, and stays."""
    over = (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    return (controller_of(pod) or {}).get("kind") == "ReplicaSet" and not is_leaving(pod) and not over


def _asked(key: Key, target: Target, pods: list[Object]) -> Asked:
    metrics = target.spec.metrics or ()
    return Asked(
        key=key,
        pods=[pod for pod in pods if (pod.get("status") or {}).get("podIP")],
        names=target.profile.metrics,
        port=target.profile.port,
        path=target.profile.metrics_path,
        first=any(metric.type == "TimeToFirstToken" for metric in metrics)
        or (not metrics and target.slo is not None and target.slo.ttft_ms is not None),
        queries={
            query_name(index): metric.query
            for index, metric in enumerate(metrics)
            if metric.query is not None
        },
    )
