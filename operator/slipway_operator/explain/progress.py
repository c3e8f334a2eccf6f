"""How long a pod has had to become ready: the clock starts when its weights are local, not before.

A download takes as long as it takes, and a full cluster is nobody's fault; loading what is there is what the
engine has to do within the deadline. Pure: time comes in as `now`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding, Weight
from slipway_operator.explain.pods import condition_of, explain_pod, is_leaving, is_ready
from slipway_operator.kinds import Object
from slipway_operator.moments import seconds_of

# What no revision is to blame for: the next one would fare no better.
BLAMELESS: Final = frozenset(
    {Reason.UNSCHEDULABLE, Reason.SCHEDULING, Reason.NODE_LOST, Reason.EVICTED, Reason.TERMINATING}
)


@dataclass(frozen=True)
class Progress:
    """How the pods that do not serve are coming along.

    Attributes:
        overdue: what the first pod beyond its deadline is waiting for, whoever is to blame.
        failed: what shows that the revision itself does not work: beyond the deadline, or beyond hope.
        again: after how many seconds another deadline passes; None for never.
    """

    overdue: Finding | None = None
    failed: Finding | None = None
    again: float | None = None


def progress_of(pods: Iterable[Object], deadline: float, now: float) -> Progress:
    """Return how `pods` are coming along."""
    overdue, failed, again = None, None, None
    for pod in pods:
        finding = explain_pod(pod)
        if finding is None or is_leaving(pod):
            continue
        since = _since(pod, finding)
        left = None if since is None else since + deadline - now
        if left is not None and left <= 0:
            overdue = overdue or finding
        elif left is not None:
            again = left if again is None else min(again, left)
        hopeless = finding.weight is Weight.TERMINAL or (left is not None and left <= 0)
        if hopeless and finding.reason not in BLAMELESS:
            failed = failed or finding
    return Progress(overdue, failed, again)


def unschedulable_since(pod: Object) -> float | None:
    """Return since when no node takes the pod, in seconds since 1970; None where that is not so."""
    scheduled = condition_of(pod, "PodScheduled")
    if is_leaving(pod) or scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return None
    return seconds_of(scheduled.get("lastTransitionTime"))


def ready_since(pods: Collection[Object]) -> list[float]:
    """Return since when each pod that serves has done so, the longest first."""
    found = (
        seconds_of(condition_of(pod, "Ready").get("lastTransitionTime")) for pod in pods if is_ready(pod)
    )
    return sorted(moment for moment in found if moment is not None)


def _since(pod: Object, finding: Finding) -> float | None:
    """Return when the pod's clock started."""
    waiting = unschedulable_since(pod)
    if waiting is not None:
        return waiting
    for kind in ("Initialized", "PodScheduled"):
        condition = condition_of(pod, kind)
        if condition.get("status") == "True" and (kind == "Initialized" or not finding.on_the_way):
            started = seconds_of(condition.get("lastTransitionTime"))
            fell = seconds_of(condition_of(pod, "Ready").get("lastTransitionTime"))
            return max((moment for moment in (started, fell) if moment is not None), default=None)
    return None
