"""What the autoscaler says of itself: the condition with autoscaling/v2's reasons, decisions, signals.

A moving number says nothing: what is told changes with a decision, or when a state has lasted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import DecisionStatus, SignalStatus
from slipway_operator.autoscale.load import Load
from slipway_operator.autoscale.needs import in_flight
from slipway_operator.autoscale.terms import MAX_REPLICAS, Bounds, Decision, Why
from slipway_operator.kinds import Object
from slipway_operator.moments import text_of

Told: TypeAlias = tuple[Literal["True", "False", "Unknown"], Reason, str]

SETTLED: Final = 3
"""Looks at which a state has to be the same before it is told."""
MOST_DECISIONS: Final = 5
MOST_TEXT: Final = 1000

NO_ROOM: Final = (
    "The load asks for more than the {} replicas that nodes have room for, one that waits included, and the "
    "class asks for no more (autoscaling.capByFreeAccelerators); add nodes."
)
NOT_YET: Final[Told] = ("Unknown", Reason.PROGRESSING, "Nothing is decided yet.")
PARKED: Final[Told] = ("False", Reason.SCALING_DISABLED, "spec.suspend is true, so nothing is decided.")


@dataclass(frozen=True)
class Voice:
    """What is told, and what is about to be."""

    told: Told = NOT_YET
    coming: Told | None = None
    times: int = 0

    def hears(self, now: Told, *, at_once: bool) -> Voice:
        """Return what is told after one more look."""
        if now == self.told:
            return Voice(self.told)
        times = self.times + 1 if now == self.coming else 1
        if at_once or times >= SETTLED or self.told in (NOT_YET, PARKED):
            return Voice(now)
        return replace(self, coming=now, times=times)


def active(decision: Decision, bounds: Bounds, problems: Sequence[str], notes: Sequence[str]) -> Told:
    """Return what the condition should say after one decision. `notes` are further sentences."""
    said = " ".join(notes)
    match decision.why:
        case Why.STALE | Why.FALLBACK:
            kept = "fallbackReplicas holds" if decision.why is Why.FALLBACK else "nothing is changed"
            silent = "no gateway answers" if not decision.replicas else "no pod reports"
            what = f"{'; '.join(problems[:3]) or silent}; {kept}."
            return "False", _failed(problems), _joined(what[:1].upper() + what[1:], said)
        case _ if problems:
            what = f"{'; '.join(problems[:3])}; no replica is taken away."
            if _external(problems):
                return "False", Reason.FAILED_GET_EXTERNAL_METRIC, _joined(what, said)
            return "True", Reason.VALID_METRIC_FOUND, _joined(what, said)
        case Why.AT_MAXIMUM:
            text = f"The load asks for more than maxReplicas {bounds.maximum}; raise autoscaling.maxReplicas."
            if bounds.ceiling != MAX_REPLICAS:
                text = NO_ROOM.format(bounds.maximum)
            return "True", Reason.TOO_MANY_REPLICAS, _joined(text, said)
        case _:
            return "True", Reason.VALID_METRIC_FOUND, _joined("The load decides on the replicas.", said)


def silent(load: Load) -> tuple[str, ...]:
    """Return what to say of ready pods whose last sample is too old, where nothing else was said of them."""
    if not load.silent or load.blind:
        return ()
    return (f"{load.silent} of {load.ready} ready pods do not report",)


def conflict(parent: Object, children: Sequence[Object]) -> str:
    """Return who else scales the object, or one of its Deployments; empty where nobody does."""
    for obj in (parent, *children):
        for entry in obj["metadata"].get("managedFields") or ():
            fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
            if entry.get("subresource") == "scale" and "f:replicas" in fields:
                return f"{entry.get('manager')} ({obj['kind']} {obj['metadata']['name']})"
    return ""


def contested(told: Told, who: str) -> Told:
    """Return the condition where somebody else scales too: ours holds, and says so."""
    if not who or told[0] != "True":
        return told
    text = (
        f"{who} scales through the scale subresource too, which has no effect while spec.autoscaling is set; "
        "delete one of the two autoscalers, then write spec.replicas once."
    )
    return "True", Reason.CONFLICTING_SCALER, f"{text} {told[2]}"


def decided(decisions: Sequence[DecisionStatus], decision: Decision, now: float) -> list[DecisionStatus]:
    """Return the last decisions with one more, the newest first."""
    text = f"{decision.why}: {decision.text}"[:MOST_TEXT]
    made = DecisionStatus(time=text_of(now), replicas=decision.replicas, reason=text)
    return [made, *decisions][:MOST_DECISIONS]


def signals(load: Load) -> list[SignalStatus]:
    """Return what a decision was made from."""
    values: dict[str, float | None] = {
        "InFlight": in_flight(load) if load.fresh else None,
        "QueueDepth": sum(pod.waiting for pod in load.fresh) if load.fresh else None,
        "Held": load.held,
        "TimeToFirstToken": None if load.ttft is None else 1000 * load.ttft,
        **dict(load.values),
    }
    shares = [pod.kv_cache for pod in load.fresh if pod.kv_cache is not None]
    if shares:
        values["KVCacheUtilization"] = 100 * sum(shares) / len(shares)
    oldest = min((pod.at for pod in load.fresh), default=load.now)
    return [
        SignalStatus(name=name, value=f"{value:.4g}", time=text_of(oldest))
        for name, value in sorted(values.items())
        if value is not None
    ][:8]


def recalled(status: Mapping[str, Any]) -> list[DecisionStatus]:
    """Return the decisions that a status tells of; those that cannot be read are left out."""
    found = []
    for entry in (status.get("lastDecisions") or ())[:MOST_DECISIONS]:
        if isinstance(entry, Mapping) and {"time", "replicas", "reason"} <= entry.keys():
            found.append(DecisionStatus.model_validate(entry))
    return found


def _failed(problems: Sequence[str]) -> Reason:
    return Reason.FAILED_GET_EXTERNAL_METRIC if _external(problems) else Reason.FAILED_GET_PODS_METRIC


def _external(problems: Sequence[str]) -> bool:
    return any("Prometheus" in problem for problem in problems)


def _joined(*texts: str) -> str:
    return " ".join(text for text in texts if text)
