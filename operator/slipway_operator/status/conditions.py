"""The conditions of an LLMDeployment, told from one verdict. `Ready` rolls the others up in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from slipway_api.conditions import Condition, Reason
from slipway_api.v1alpha1 import StatusCondition
from slipway_operator.explain.findings import ABOUT_MODEL, TERMINAL, Finding
from slipway_operator.kinds import Object
from slipway_operator.plan import Refusal

Value: TypeAlias = Literal["True", "False", "Unknown"]
Told: TypeAlias = tuple[Value, Reason, str]


@dataclass(frozen=True)
class Verdict:
    """What a reconcile came to. `refusal` and `finding` are None where all is as it should be."""

    refusal: Refusal | None
    finding: Finding | None
    complete: bool
    overdue: bool
    wanted: int
    ready: int
    enough: bool
    suspended: bool
    held: Reason | None = None
    """Why a rollout that is as far as it may go is not at its end: paused, or a canary."""
    upgrade: str | None = ""
    """What the operator would make otherwise now, in one sentence; empty: nothing; None: nobody knows."""
    scaling: Told | None = None
    """What the autoscaler says; None where the object decides on its replicas itself."""
    taken: str = ""
    """Which names an older object holds, in one sentence; empty: none."""

    @property
    def stalled(self) -> bool:
        """Return whether waiting does not help any more."""
        terminal = self.finding is not None and self.finding.reason in TERMINAL
        return self.refusal is not None or terminal or self.overdue

    @property
    def zero(self) -> Reason | None:
        """Return the reason for having no pods on purpose; None where some are wanted."""
        if self.wanted > 0 or self.refusal is not None:
            return None
        return Reason.SUSPENDED if self.suspended else Reason.SCALED_TO_ZERO


def conditions_of(verdict: Verdict, parent: Object, now: str) -> list[StatusCondition]:
    """Return all conditions, in the order of `Condition`; an unchanged status keeps its transition time."""
    told: dict[Condition, Told] = {
        Condition.ACCEPTED: _accepted(verdict),
        Condition.MODEL_READY: _model_ready(verdict),
        Condition.AVAILABLE: _available(verdict),
        **({Condition.AUTOSCALING_ACTIVE: verdict.scaling} if verdict.scaling else {}),
        Condition.UP_TO_DATE: _up_to_date(verdict),
        Condition.RECONCILING: _reconciling(verdict),
        Condition.STALLED: _stalled(verdict),
        Condition.READY: _ready(verdict),
    }
    before = {old.get("type"): old for old in (parent.get("status") or {}).get("conditions") or ()}
    return [
        StatusCondition(
            type=kind.value,
            status=value,
            reason=reason.value,
            message=message,
            last_transition_time=_since(before.get(kind.value, {}), value, now),
            observed_generation=parent["metadata"].get("generation"),
        )
        for kind, (value, reason, message) in told.items()
    ]


def sentence(verdict: Verdict) -> str:
    """Return what blocks, and the next command to run."""
    if verdict.refusal is not None:
        return f"{verdict.refusal.message}; correct the object: what runs already is left as it is."
    serving = f"{verdict.ready} of {verdict.wanted} replicas serve"
    finding = verdict.finding
    if finding is None:
        return f"{serving}."
    late = " (no progress within rollout.progressDeadlineSeconds)" if verdict.overdue else ""
    run = f"; run `{finding.command}`" if finding.command else ""
    return f"{serving}: {finding.message}{late}{run}."


def _since(old: Mapping[str, Any], value: Value, now: str) -> str:
    return str(old.get("lastTransitionTime") or now) if old.get("status") == value else now


def _accepted(verdict: Verdict) -> Told:
    if verdict.refusal is not None:
        return "False", verdict.refusal.reason, sentence(verdict)
    if verdict.taken:
        return "True", Reason.NAME_TAKEN, verdict.taken
    return "True", Reason.ACCEPTED, "The object is valid."


def _model_ready(verdict: Verdict) -> Told:
    if verdict.ready:
        return "True", Reason.MODEL_LOADED, "At least one replica has the model in memory."
    if verdict.zero is not None:
        return "Unknown", verdict.zero, "No replica runs that could tell."
    if verdict.finding is None:
        reason = verdict.refusal.reason if verdict.refusal is not None else Reason.PROGRESSING
        return "Unknown", reason, "No replica runs that could tell."
    known = {*ABOUT_MODEL, Reason.FETCHING, Reason.LOADING}
    if verdict.finding.reason in known:
        return "False", verdict.finding.reason, sentence(verdict)
    return "Unknown", verdict.finding.reason, "No replica has come as far as the model."


def _available(verdict: Verdict) -> Told:
    if verdict.zero is not None:
        return "False", verdict.zero, "No replicas are wanted."
    serving = f"{verdict.ready} of {verdict.wanted} replicas serve."
    if verdict.enough:
        return "True", Reason.MINIMUM_REPLICAS_AVAILABLE, serving
    return "False", Reason.MINIMUM_REPLICAS_UNAVAILABLE, serving


def _up_to_date(verdict: Verdict) -> Told:
    if verdict.refusal is not None or verdict.upgrade is None:
        return (
            "Unknown",
            verdict.refusal.reason if verdict.refusal else Reason.PROGRESSING,
            "Nothing is planned.",
        )
    if verdict.upgrade:
        return "False", Reason.UPGRADE_AVAILABLE, verdict.upgrade
    return "True", Reason.UP_TO_DATE, "The object asks for what this operator would make of it now."


def _reconciling(verdict: Verdict) -> Told:
    if verdict.complete:
        return "False", verdict.held or Reason.UP_TO_DATE, "Nothing is left to change."
    reason = _reason(verdict)
    return ("False" if verdict.stalled else "True"), reason, sentence(verdict)


def _stalled(verdict: Verdict) -> Told:
    if not verdict.stalled:
        reason = Reason.UP_TO_DATE if verdict.complete else Reason.PROGRESSING
        return "False", reason, "Nothing needs your hands."
    reason = _reason(verdict)
    if verdict.overdue and reason not in TERMINAL:
        reason = Reason.PROGRESS_DEADLINE_EXCEEDED
    return "True", reason, sentence(verdict)


def _ready(verdict: Verdict) -> Told:
    if not verdict.complete:
        return "False", _reason(verdict), sentence(verdict)
    if verdict.zero is Reason.SUSPENDED:
        return "True", Reason.SUSPENDED, "Suspended: no pods run until spec.suspend is false again."
    if verdict.zero is not None and verdict.scaling is not None:
        return "True", verdict.zero, "No pods run: nobody asked for a while; the gateway wakes it."
    if verdict.zero is not None:
        return "True", verdict.zero, "No pods run, as spec.replicas: 0 asks for."
    if verdict.held is Reason.PAUSED:
        message = f"{sentence(verdict)[:-1]}; the rollout is held until spec.rollout.paused is false again."
        return "True", Reason.PAUSED, message
    if verdict.held is not None:
        message = (
            f"{sentence(verdict)[:-1]}; the rollout goes on when spec.rollout.canary is removed or raised."
        )
        return "True", verdict.held, message
    return "True", Reason.READY, sentence(verdict)


def _reason(verdict: Verdict) -> Reason:
    if verdict.refusal is not None:
        return verdict.refusal.reason
    return verdict.finding.reason if verdict.finding is not None else Reason.PROGRESSING
