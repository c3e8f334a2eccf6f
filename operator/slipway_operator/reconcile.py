"""One reconcile: observe, plan, apply, tell. A thin shell around pure parts.

Each run starts from what is true now and forgets everything at its end, so being killed at any point costs
one more run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from slipway_api.v1alpha1 import MemoryStatus
from slipway_operator.announce import Announcer, EventApi
from slipway_operator.apply import Remember, Writer, apply_child, apply_status, delete_child
from slipway_operator.explain.pods import PULL_SECRET_EVENT
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, LABEL_CACHE, Key, Object, key_of, uid_of
from slipway_operator.moments import Clock, steady_clock, text_of
from slipway_operator.observe import observe
from slipway_operator.pace import Pace
from slipway_operator.plan import Installation, Plan, Refusal, World, make_plan
from slipway_operator.plan.cache import View, Wish
from slipway_operator.plan.world import Scaled
from slipway_operator.problems import ApplyProblem, Result
from slipway_operator.status import Observation, build_status, pull_failures
from slipway_operator.status.measured import told_before, who_knows
from slipway_operator.store import Store

MAX_EXPLAINED_PODS = 3
# Nothing is due sooner than this: timestamps have whole seconds.
SOONEST = 1.0


class Api(Writer, EventApi, Protocol):
    """The part of the API client that a reconcile needs."""

    def pod_events(self, namespace: str, pod_uid: str, reason: str) -> Awaitable[list[Object]]:
        """Return the events of one pod that have a reason."""


class References(Protocol):
    """Who takes in which model caches objects refer to."""

    @property
    def views(self) -> Mapping[Key, View]:
        """Return how the caches stand."""

    def refer(self, parent: Key, wish: Wish | None, running: Collection[str]) -> None:
        """Take in what an object asks for, and which caches its pods mount."""

    def forget(self, parent: Key) -> None:
        """An object is gone."""


class Measuring(Protocol):
    """Who asks engines what they measured."""

    def of(self, key: Key, revision: str, pod: Object | None) -> MemoryStatus | None:
        """Return what a revision's engine measured; where that is unknown, `pod` is asked soon."""

    def forget(self, key: Key) -> None:
        """An object is gone."""


class Scaling(Protocol):
    """Who decides on the number of replicas."""

    def of(self, world: World) -> Scaled | None:
        """Return the last decision for an object; None where the object decides itself."""

    def take(self, key: Key, plan: Plan | Refusal) -> None:
        """Take in what an object asks for now."""

    def forget(self, key: Key) -> None:
        """An object is gone."""


class Reconciler:
    """Brings one LLMDeployment at a time nearer to what it asks for."""

    def __init__(
        self,
        store: Store,
        api: Api,
        installation: Installation,
        remember: Remember,
        caches: References,
        clock: Clock | None = None,
        measurements: Measuring | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        self._store, self._api, self._installation = store, api, installation
        self._measurements, self._scaling = measurements, scaling
        self._remember, self._caches, self._clock = remember, caches, clock or steady_clock()
        self._pace, self._announcer = Pace(), Announcer(api)

    async def reconcile(self, key: Key) -> Result:
        """Reconcile one LLMDeployment; return what stays to be tried again. Raises OperatorError."""
        world = observe(self._store, key, self._caches.views, everywhere=self._installation.everywhere)
        if world is None:
            self._caches.forget(key)
            self._pace.forget(key)
            self._announcer.forget(key)
            if self._measurements is not None:
                self._measurements.forget(key)
            if self._scaling is not None:
                self._scaling.forget(key)
            return Result()
        now = self._clock()
        if self._scaling is not None:
            world = replace(world, scaled=self._scaling.of(world))
        plan = make_plan(world, self._installation, now)
        if self._scaling is not None:
            self._scaling.take(key, plan)
        self._caches.refer(key, plan.prepared.wish if isinstance(plan, Plan) else None, _mounted(world))
        problems = await self._apply(world, plan)
        wait = await self._tell(world, plan, problems, now)
        times = [wait or None, plan.again if isinstance(plan, Plan) else None]
        again = min((time for time in times if time is not None), default=None)
        return Result(problems, None if again is None else max(again, SOONEST))

    async def _apply(self, world: World, plan: Plan | Refusal) -> list[ApplyProblem]:
        problems: list[ApplyProblem] = []
        for kind, rendered in plan.children:
            if kind is DEPLOYMENT and any(problem.kind is CONTROLLER_REVISION for problem in problems):
                continue  # what pods are made from is stored before any pod is made
            live = self._store.get(kind, key_of(rendered))
            problem = await apply_child(self._api, kind, world.parent, live, rendered, self._remember)
            if problem is not None:
                problems.append(problem)
        for kind, live in plan.surplus if isinstance(plan, Plan) else ():
            problem = await delete_child(self._api, kind, world.parent, live)
            if problem is not None:
                problems.append(problem)
        return problems

    async def _tell(
        self, world: World, plan: Plan | Refusal, problems: Sequence[ApplyProblem], now: float
    ) -> float:
        """Write the status; return for how many seconds that may still wait."""
        status = build_status(
            Observation(
                world=world,
                plan=plan,
                now=text_of(now),
                problems=problems,
                pull_events=await self._pull_events(world.pods),
                measured=self._measured(world, plan),
            )
        )
        wait = self._pace.wait(key_of(world.parent), world.parent.get("status") or {}, status, now)
        if not wait and await apply_status(self._api, world.parent, status, self._remember):
            await self._announcer.announce(world.parent, status, now)
        return wait

    def _measured(self, world: World, plan: Plan | Refusal) -> MemoryStatus | None:
        if isinstance(plan, Refusal) or self._measurements is None:
            return None
        told = told_before(world.parent, plan.course.target)
        if told is not None:
            return told
        return self._measurements.of(key_of(world.parent), plan.course.target, who_knows(world, plan))

    async def _pull_events(self, pods: Sequence[Object]) -> Mapping[str, Sequence[Object]]:
        """Ask for the events of failed image pulls; nothing else tells of a missing pull secret."""
        events: dict[str, Sequence[Object]] = {}
        for pod in pull_failures(pods)[:MAX_EXPLAINED_PODS]:
            if not (pod.get("spec") or {}).get("imagePullSecrets"):
                continue
            key = key_of(pod)
            events[key.name] = await self._api.pod_events(key.namespace, uid_of(pod), PULL_SECRET_EVENT)
        return events


def _mounted(world: World) -> set[str]:
    """Return the model caches that the object's revisions mount, as far as they have a Deployment."""
    labels = (obj["spec"]["template"]["metadata"].get("labels") or {} for obj in world.deployments)
    return {each[LABEL_CACHE] for each in labels if LABEL_CACHE in each}
