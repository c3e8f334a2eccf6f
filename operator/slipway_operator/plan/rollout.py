"""The rollout: from the pods that exist, one next step towards the revision that is wanted. Pure.

Every call sees what is true now and answers how many pods each revision should have next; the executor writes
that and comes back when something changed. Nothing is remembered but one mark that there is no room for a
surge, on the Deployment that is grown: the newest one's, or the better of two while the newest has to wait.

    spare = ready - (wanted - maxUnavailable)       what may go without serving less than was asked for
    1. pods of other revisions that do not serve go first, then as many that serve as `spare` allows; of what
       is above wanted + maxSurge, only what serves stays
    2. the target gets what fits below wanted + maxSurge; before its first pod serves, no more than it takes
       to find out (maxSurge + maxUnavailable), while others do serve
    3. what is then missing to `wanted` goes to the revision that serves
    4. where the surge finds no node for SURGE_PATIENCE seconds: it goes, and one pod at a time is replaced in
       place (maxUnavailable unset counts as 1 from then on); with maxUnavailable 0 it waits

The arithmetic of 1 and 2 is that of Kubernetes' rolling update (its `NewRSNewReplicas` and
`reconcileOldReplicaSets`); 3 and 4 are what it lacks on full accelerators.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

SURGE_PATIENCE: Final = 60.0
"""Seconds for which a pod may be unschedulable before that is taken for a fact."""


class Phase(StrEnum):
    """Where a rollout stands."""

    DONE = "Done"
    ROLLING = "Rolling"
    CANARY = "Canary"  # as far as spec.rollout.canary lets it go
    PAUSED = "Paused"  # as far as spec.rollout.paused lets it go
    NO_ROOM = "NoRoom"  # no node takes the surge, and nothing that serves may go


@dataclass(frozen=True)
class Running:
    """One revision's Deployment and its pods that are not leaving.

    Attributes:
        replicas: what its Deployment asks for.
        pods: how many pods there are.
        ready: how many of them serve.
        unschedulable: since when each pod that no node takes has been told so, in seconds since 1970.
        proven: whether it was rolled out completely once, so that its pods are worth waiting for.
        in_place: whether its Deployment carries the mark that there is no room for a surge.
    """

    revision: str
    replicas: int
    pods: int = 0
    ready: int = 0
    unschedulable: tuple[float, ...] = ()
    proven: bool = False
    in_place: bool = False

    @property
    def serving(self) -> int:
        """Return how many serve for certain: of a Deployment just made smaller, some are about to go."""
        return min(self.ready, self.replicas)


@dataclass(frozen=True)
class Goal:
    """What is wanted. `max_unavailable` is None where the object leaves it open."""

    target: str
    wanted: int
    max_surge: int = 1
    max_unavailable: int | None = None
    paused: bool = False
    canary: int | None = None

    def unavailable(self, in_place: bool) -> int:
        """Return how many replicas may be missing by our own doing."""
        if self.max_unavailable is not None:
            return self.max_unavailable
        return 1 if in_place or self.max_surge == 0 else 0

    @property
    def held(self) -> bool:
        """Return whether the target may not have everything yet."""
        return self.paused or self.canary is not None


@dataclass(frozen=True)
class Step:
    """What to do next.

    Attributes:
        replicas: what each revision's Deployment should ask for; the target's is among them unless a rollout
            is held before its first pod or another revision has to go first.
        in_place: the revision whose Deployment is to carry the mark; None where there is room.
        gone: revisions whose Deployment has no pods any more and is to be deleted.
        again: after how many seconds to look again though nothing happens; None for never.
    """

    replicas: Mapping[str, int]
    phase: Phase
    in_place: str | None = None
    gone: frozenset[str] = field(default_factory=frozenset)
    again: float | None = None


def next_step(goal: Goal, running: Collection[Running], now: float) -> Step:
    """Return the next step towards `goal`."""
    here = {one.revision: one for one in running}
    others = sorted((one for one in running if one.revision != goal.target), key=_worth, reverse=True)
    empty = [one for one in others if not one.replicas and not one.pods]
    alive = [one for one in others if one.replicas or one.pods]
    target = here.get(goal.target)
    gone = frozenset(one.revision for one in (empty if not goal.held else empty[1:]))
    if not goal.held:
        others = alive
    elif len(alive) or len(empty):
        others = alive or empty[:1]
    if target is None and goal.paused and others:
        return _without_target(goal, others, gone, now, Phase.PAUSED)
    begun = target is not None and (target.replicas or target.pods)
    if not begun and len(alive) > 1:
        return _without_target(goal, others, gone, now, Phase.ROLLING)  # never three revisions at once
    return _towards(goal, target or Running(goal.target, 0), others, gone, now)


def _worth(one: Running) -> tuple[int, bool, int, str]:
    return one.serving, one.proven, one.replicas, one.revision


def _without_target(
    goal: Goal, others: Sequence[Running], gone: frozenset[str], now: float, phase: Phase
) -> Step:
    """Return the step that keeps the best of the other revisions at work, and the target out of it."""
    keeper, *rest = others
    step = _towards(replace(goal, target=keeper.revision, canary=None), keeper, rest, gone, now)
    return replace(step, phase=phase)


def _towards(
    goal: Goal, target: Running, others: Sequence[Running], gone: frozenset[str], now: float
) -> Step:
    tired, again = _patience([target, *(one for one in others if one.proven)], now)
    if _give_up_surge(goal, target, others, tired):
        less = {one.revision: one.replicas for one in others}
        stuck = sum(since <= now - SURGE_PATIENCE for since in target.unschedulable)
        less[target.revision] = max(0, target.replicas - stuck)
        return Step(less, Phase.ROLLING, in_place=target.revision, gone=gone)
    in_place = target.in_place and bool(others) and goal.max_unavailable is None
    counts = _Counts(goal, target, others, in_place)
    counts.shrink(patient=not tired)
    counts.grow()
    mark = target.revision if in_place else None
    return Step(counts.replicas(), _phase(goal, target, others, counts, tired), mark, gone, again)


def _patience(running: Sequence[Running], now: float) -> tuple[bool, float | None]:
    """Return whether a pod is unschedulable for too long, and when the next one will be."""
    waits = [since + SURGE_PATIENCE - now for one in running for since in one.unschedulable]
    return any(wait <= 0 for wait in waits), min((wait for wait in waits if wait > 0), default=None)


def _give_up_surge(goal: Goal, target: Running, others: Sequence[Running], tired: bool) -> bool:
    """Return whether to go on in place: there is no room, and the object leaves open what may be missing."""
    undecided = goal.max_unavailable is None and goal.max_surge > 0 and not target.in_place
    return tired and undecided and any(one.replicas for one in others)


class _Counts:
    """The replicas of each revision while one step is worked out."""

    def __init__(self, goal: Goal, target: Running, others: Sequence[Running], in_place: bool) -> None:
        self._target, self._others, self._paused = target, others, goal.paused
        self._wanted = goal.wanted
        self._surge = 0 if in_place else goal.max_surge
        self._unavailable = goal.unavailable(in_place)
        self._cap = _cap(goal, target, others)
        self._floor = goal.wanted - self._cap if goal.held else 0
        self.target = target.replicas
        self.others = {one.revision: one.replicas for one in others}

    def replicas(self) -> dict[str, int]:
        """Return all of them."""
        return {**self.others, self._target.revision: self.target}

    @property
    def _rest(self) -> int:
        return sum(self.others.values())

    @property
    def _room(self) -> int:
        """Return how many more pods fit below wanted + maxSurge; negative where there are too many."""
        return self._wanted + self._surge - self._rest - self.target

    def shrink(self, *, patient: bool) -> None:
        """Take away what is not needed: what does not serve first, then what can be spared.

        A proven revision's pods that do not serve yet are waited for, as long as nothing needs their room.
        """
        least = max(0, self._wanted - self._unavailable)
        serving = self._target.serving + sum(one.serving for one in self._others)
        spare = max(0, serving - least)
        idle = max(0, self._rest + self._target.serving - least)
        for one in reversed(self._others):
            allowed = idle if one.proven and patient else one.replicas
            idle -= self._take(one, one.replicas - one.serving, allowed)
        for one in reversed(self._others):
            spare -= self._take(one, one.serving, spare)
        surplus = max(0, self.target - self._cap)
        self.target -= min(surplus, self._target.replicas - self._target.serving + spare)
        self._trim()

    def _trim(self) -> None:
        """Take away what is above wanted + maxSurge and does not serve, the target's first.

        Then even what a held rollout leaves the others: a target that serves above its cap has their place.
        """
        self.target -= max(0, min(-self._room, self.target - self._target.serving))
        for one in reversed(self._others):
            self.others[one.revision] -= max(0, min(-self._room, self.others[one.revision] - one.serving))

    def _take(self, one: Running, most: int, allowed: int) -> int:
        taken = max(0, min(most, allowed, self._rest - self._floor, self.others[one.revision]))
        self.others[one.revision] -= taken
        return taken

    def grow(self) -> None:
        """Give the target what fits; what is missing then, to the revision that serves."""
        most = self._cap
        if not self._target.serving and any(one.serving for one in self._others):
            most = min(most, max(1, self._surge + self._unavailable))
        self.target += max(0, min(self._room, most - self.target))
        missing = max(self._room - self._surge, min(self._room, self._floor - self._rest))
        if missing <= 0 or not self._others:
            return
        best = self._others[0]
        if self._paused and _worth(self._target) > _worth(best):
            self.target += missing
        else:
            self.others[best.revision] += missing


def _cap(goal: Goal, target: Running, others: Sequence[Running]) -> int:
    """Return how many pods the target may have at last."""
    if not others:
        return goal.wanted
    cap = goal.wanted if goal.canary is None else min(goal.wanted, goal.canary)
    return min(cap, target.replicas) if goal.paused else cap


def _phase(goal: Goal, target: Running, others: Sequence[Running], counts: _Counts, tired: bool) -> Phase:
    if not others:
        return Phase.DONE if target.replicas == counts.target else Phase.ROLLING
    before = {one.revision: one.replicas for one in others} | {target.revision: target.replicas}
    if counts.replicas() != before:
        return Phase.ROLLING
    if goal.paused:
        return Phase.PAUSED
    if goal.canary is not None and target.replicas == min(goal.wanted, goal.canary):
        return Phase.CANARY
    return Phase.NO_ROOM if tired else Phase.ROLLING
