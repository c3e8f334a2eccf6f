"""One reconcile: observe, plan, apply, tell. A thin shell around pure parts.

Each run starts from what is true now and forgets everything at its end, so being killed at any point costs
one more run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from slipway_operator.apply import Remember, Writer, apply_child, apply_status
from slipway_operator.explain.pods import PULL_SECRET_EVENT
from slipway_operator.kinds import DEPLOYMENT, Key, Object, key_of, uid_of
from slipway_operator.observe import World, observe
from slipway_operator.plan import Installation, Plan, Refusal, make_plan
from slipway_operator.problems import ApplyProblem
from slipway_operator.status import Observation, build_status, pull_failures
from slipway_operator.store import Store

MAX_EXPLAINED_PODS = 3


class Api(Writer, Protocol):
    """The part of the API client that a reconcile needs."""

    def pod_events(self, namespace: str, pod_uid: str, reason: str) -> Awaitable[list[Object]]:
        """Return the events of one pod that have a reason."""


def utc_now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reconciler:
    """Brings one LLMDeployment at a time nearer to what it asks for."""

    def __init__(
        self,
        store: Store,
        api: Api,
        installation: Installation,
        remember: Remember,
        now: Callable[[], str] = utc_now,
    ) -> None:
        self._store, self._api, self._installation = store, api, installation
        self._remember, self._now = remember, now

    async def reconcile(self, key: Key) -> Sequence[ApplyProblem]:
        """Reconcile one LLMDeployment; return what stays to be tried again. Raises OperatorError."""
        world = observe(self._store, key)
        if world is None:
            return ()
        plan = make_plan(world.parent, self._installation, world.classes)
        problems = await self._apply(world, plan) if isinstance(plan, Plan) else []
        await self._tell(world, plan, problems)
        return problems

    async def _apply(self, world: World, plan: Plan) -> list[ApplyProblem]:
        problems = []
        for kind, rendered in plan.children.items():
            problem = await apply_child(
                self._api, kind, world.parent, world.children[kind], rendered, self._remember
            )
            if problem is not None:
                problems.append(problem)
        return problems

    async def _tell(self, world: World, plan: Plan | Refusal, problems: Sequence[ApplyProblem]) -> None:
        status = build_status(
            Observation(
                parent=world.parent,
                plan=plan,
                deployment=self._store.get(DEPLOYMENT, key_of(world.parent)),
                pods=world.pods,
                now=self._now(),
                problems=problems,
                pull_events=await self._pull_events(world.pods),
            )
        )
        await apply_status(self._api, world.parent, status, self._remember)

    async def _pull_events(self, pods: Sequence[Object]) -> Mapping[str, Sequence[Object]]:
        """Ask for the events of failed image pulls; nothing else tells of a missing pull secret."""
        events: dict[str, Sequence[Object]] = {}
        for pod in pull_failures(pods)[:MAX_EXPLAINED_PODS]:
            if not (pod.get("spec") or {}).get("imagePullSecrets"):
                continue
            key = key_of(pod)
            events[key.name] = await self._api.pod_events(key.namespace, uid_of(pod), PULL_SECRET_EVENT)
        return events
