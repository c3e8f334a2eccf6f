"""The course of a rollout: what was seen of the revisions, the next step, and what became of the newest.

Brings together the pure parts: the pods seen (`explain`), the history, and the arithmetic of `rollout`. A
revision that never becomes ready is marked as failed, and the rollout then aims at the last good one. The
object's spec is left alone, so only another spec (or restart token) makes a new attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slipway_api.v1alpha1 import LLMDeploymentSpec, RolloutSpec
from slipway_operator.explain.pods import is_leaving, is_ready
from slipway_operator.explain.progress import Progress, progress_of, ready_since, unschedulable_since
from slipway_operator.kinds import Object, controller_of, key_of, uid_of
from slipway_operator.moments import text_of
from slipway_operator.plan.effective import Effective
from slipway_operator.plan.history import History
from slipway_operator.plan.render import IN_PLACE_ANNOTATION
from slipway_operator.plan.revision import LABEL_REVISION, Outcome, Revision
from slipway_operator.plan.rollout import Goal, Phase, Running, Step, next_step
from slipway_operator.plan.world import World


@dataclass(frozen=True)
class Course:
    """Where a rollout stands.

    Attributes:
        target: the revision it aims at: the desired one, or the last good one where that failed.
        step: what to do next.
        history: the revisions, with what was learned about the desired one.
        progress: how the desired revision's pods are coming along.
        running: the revisions that have a Deployment.
    """

    target: str
    step: Step
    history: History
    progress: Progress
    running: Mapping[str, Running]
    left_open: bool = True
    """Whether the object leaves open how many replicas may be missing."""

    @property
    def phase(self) -> Phase:
        """Return where it stands."""
        return self.step.phase

    @property
    def reverted(self) -> bool:
        """Return whether the desired revision failed and another one is aimed at."""
        return self.target != self.history.desired.name

    @property
    def again(self) -> float | None:
        """Return after how many seconds to look again though nothing happens."""
        times = [time for time in (self.step.again, self.progress.again) if time is not None]
        return min(times, default=None)

    def growth(self, revision: str, replicas: int) -> int:
        """Return by how much a revision grows in this step."""
        seen = self.running.get(revision)
        return replicas - (seen.replicas if seen is not None else 0)


def chart(world: World, history: History, spec: LLMDeploymentSpec, values: Effective, now: float) -> Course:
    """Return the course from what is there to what the object asks for."""
    running = observe_running(world, history)
    pods = _pods_of(world, history.desired.name)
    progress = progress_of(pods, values.progress_deadline_seconds, now)
    desired = history.desired
    fallback = history.fallback({one.revision for one in running.values() if one.serving})
    seen = running.get(desired.name, Running(desired.name, 0))
    if progress.failed is not None and fallback is not None and not (seen.ready or desired.outcome.result):
        finding = progress.failed
        history = history.marked(Outcome("Failed", finding.reason.value, finding.message, text_of(now)))
    failed = history.desired.failed
    target = fallback if failed and fallback is not None else history.desired
    goal, again = _goal(desired, target, spec, values, pods, running, now)
    step = next_step(goal, running.values(), now)
    if again is not None:
        step = replace(step, again=min(again, step.again or again))
    if _complete(step, seen, history.desired, target, values.replicas):
        history = history.marked(Outcome("Good"))
    return Course(target.name, step, history.sealed(text_of(now)), progress, running, left_open(values))


def observe_running(world: World, history: History) -> dict[str, Running]:
    """Return each revision that has a Deployment, as the rollout sees it."""
    known = {one.deployment: one for one in history.by_name.values()}
    running = {}
    for deployment in world.deployments:
        found = known.get(key_of(deployment).name)
        if found is None or (controller_of(deployment) or {}).get("uid") != uid_of(world.parent):
            continue
        revision, pods = found.name, _pods_of(world, found.name)
        waits = (unschedulable_since(pod) for pod in pods)
        running[revision] = Running(
            revision=revision,
            replicas=int(deployment["spec"].get("replicas") or 0),
            pods=len(pods),
            ready=sum(is_ready(pod) for pod in pods),
            unschedulable=tuple(wait for wait in waits if wait is not None),
            proven=found.good,
            in_place=IN_PLACE_ANNOTATION in (deployment["metadata"].get("annotations") or {}),
        )
    return running


def left_open(values: Effective) -> bool:
    """Return whether nobody has said how many replicas may be missing during a rollout."""
    return any(v.field == "rollout.maxUnavailable" and v.source == "built-in" for v in values.values)


def _goal(
    desired: Revision,
    target: Revision,
    spec: LLMDeploymentSpec,
    values: Effective,
    pods: Sequence[Object],
    running: Mapping[str, Running],
    now: float,
) -> tuple[Goal, float | None]:
    """Return what is wanted, and when a canary will have held for long enough."""
    rollout = spec.rollout or RolloutSpec()
    goal = Goal(
        target=target.name,
        wanted=values.replicas,
        max_surge=values.max_surge,
        max_unavailable=None if left_open(values) else values.max_unavailable,
    )
    if target.name != desired.name:
        return goal, None  # the way back knows no pause and no canary
    canary, again = _canary(rollout, goal.wanted, running.get(target.name), pods, now)
    return replace(goal, paused=bool(rollout.paused), canary=canary), again


def _canary(
    rollout: RolloutSpec, wanted: int, seen: Running | None, pods: Sequence[Object], now: float
) -> tuple[int | None, float | None]:
    """Return how many pods the desired revision may have (None: all), and for how many seconds."""
    if rollout.canary is None:
        return None, None
    count, hold = rollout.canary.replicas, rollout.canary.hold_seconds
    if hold is None:
        return count, None
    if seen is not None and seen.replicas > count:
        return None, None  # it was let go already
    since = ready_since(pods)
    tested = min(count, wanted)
    if not tested or len(since) < tested:
        return count, None
    left = since[tested - 1] + hold - now
    return (count, left) if left > 0 else (None, None)


def _complete(step: Step, seen: Running, desired: Revision, target: Revision, wanted: int) -> bool:
    """Return whether the desired revision was just found to be rolled out completely, for the first time."""
    done = step.phase is Phase.DONE and target.name == desired.name and not desired.outcome.result
    return done and seen.ready >= wanted > 0


def _pods_of(world: World, revision: str) -> list[Object]:
    return [pod for pod in world.pods if not is_leaving(pod) and _revision_of(pod) == revision]


def _revision_of(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get(LABEL_REVISION, ""))
