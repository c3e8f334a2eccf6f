"""What is remembered of one object between two decisions, and what of it stands in the status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from slipway_api.v1alpha1 import (
    AutoscalingSpec,
    AutoscalingStatus,
    DecisionStatus,
    LearnedStatus,
    SignalStatus,
    SloSpec,
    Status,
)
from slipway_operator.autoscale import kept
from slipway_operator.autoscale.capacity import learn
from slipway_operator.autoscale.load import Load, PodLoad
from slipway_operator.autoscale.replicas import first_count, start_seconds
from slipway_operator.autoscale.tell import PARKED, Told, Voice, decided, recalled, signals
from slipway_operator.autoscale.terms import Decision, Memory
from slipway_operator.explain.pods import is_leaving
from slipway_operator.kinds import Object, uid_of
from slipway_operator.plan.profiles import Profile
from slipway_operator.plan.world import Scaled, World

S = TypeVar("S", bound=Status)
DEFAULT_START: Final = 120.0
LEARNED_SECONDS: Final = 300.0
"""What was learned is written at most so often, and only where it moved."""


@dataclass(frozen=True)
class Target:
    """What an object asks of the autoscaler, as its last plan had it."""

    spec: AutoscalingSpec
    slo: SloSpec | None
    max_num_seqs: int
    profile: Profile
    capped: bool = False
    """Whether nodes cap the number."""


@dataclass
class State:
    """One object's."""

    uid: str
    desired: int
    memory: Memory
    start: float = DEFAULT_START
    decisions: Sequence[DecisionStatus] = ()
    signals: Sequence[SignalStatus] = ()
    learned: LearnedStatus | None = None
    learned_at: float = 0.0
    voice: Voice = field(default_factory=Voice)
    target: Target | None = None
    parked: bool = False
    ignorant: bool = False
    """Whether no status told what a replica bears, and the past was not asked yet."""
    started: set[str] = field(default_factory=set)
    """The pods whose start was seen."""

    def watch_starts(self, pods: Sequence[Object]) -> None:
        """Learn how long a replica takes to start from those that have begun to serve."""
        for pod in pods:
            took = start_seconds(pod)
            if took is None or uid_of(pod) in self.started:
                continue
            first = not self.started and self.start == DEFAULT_START
            self.start = took if first else 0.7 * self.start + 0.3 * took
            self.started.add(uid_of(pod))
        self.started &= {uid_of(pod) for pod in pods}

    def recall(self, past: Sequence[PodLoad]) -> None:
        """Learn what a replica bears from what its pods did before this operator came."""
        self.ignorant = False
        learned = self.memory.learned
        for load in past:
            learned = learn(learned, [load], load.at)
        self.memory = replace(self.memory, learned=learned)

    def note(self, decision: Decision, memory: Memory, load: Load, told: LearnedStatus) -> bool:
        """Take in a decision; return whether it says something new."""
        self.memory = memory
        changed = decision.replicas != self.desired or not self.decisions
        self.desired = decision.replicas
        if changed:
            self.decisions = decided(self.decisions, decision, load.now)
            self.signals = signals(load)
        late = load.now - self.learned_at >= LEARNED_SECONDS and kept.moved(self.learned, told)
        if changed or late:
            self.learned, self.learned_at = told, load.now
        return changed or late

    def says(self, told: Told, *, at_once: bool) -> bool:
        """Take in what the condition should say; return whether it says it now."""
        before = self.voice.told
        self.voice = self.voice.hears(told, at_once=at_once)
        return self.voice.told != before

    def scaled(self, pods: Sequence[Object]) -> Scaled:
        """Return what a reconcile needs."""
        staying = sum(not is_leaving(pod) for pod in pods)
        status = AutoscalingStatus(
            desired=None if self.parked else self.desired,
            current=staying,
            signals=list(self.signals) or None,
            last_decisions=list(self.decisions) or None,
            learned=self.learned,
        )
        return Scaled(self.desired, status, PARKED if self.parked else self.voice.told)


def revived(world: World) -> State:
    """Return the state of an object that this operator has not decided on yet, from what the cluster says."""
    status: Mapping[str, Any] = (world.parent.get("status") or {}).get("autoscaling") or {}
    spec = (world.parent.get("spec") or {}).get("autoscaling") or {}
    told, low = status.get("desired"), spec.get("minReplicas")
    desired = first_count(
        world.deployments, told if isinstance(told, int) else None, low if isinstance(low, int) else 1
    )
    learned = status.get("learned") or {}
    decisions = recalled(status)
    return State(
        uid=uid_of(world.parent),
        desired=desired,
        memory=Memory(learned=kept.revived(learned), served=bool(decisions)),
        start=kept.start_of(learned) or DEFAULT_START,
        decisions=decisions,
        signals=_read(SignalStatus, status.get("signals")),
        learned=next(iter(_read(LearnedStatus, [learned])), None),
        ignorant=not learned,
    )


def _read(kind: type[S], entries: object) -> list[S]:
    """Return the entries of a status that are what they should be."""
    found = []
    for entry in entries if isinstance(entries, list) else ():
        with suppress(ValidationError):
            found.append(kind.model_validate(entry))
    return found
