"""When a status is written: what counts at once, how far pods on their way have come once it stands still.

A condition that changes its value, a reason that somebody acts on, a decision, a generation that was planned:
at once. A starting pod passes several stages a second, and each would be a write that nobody reads: such a
change is written when it has lasted for `SETTLE_SECONDS`, or with the next one that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from slipway_api.conditions import Reason
from slipway_operator.kinds import Key

SETTLE_SECONDS: Final = 2.0

PASSING: Final = frozenset(
    {
        Reason.PROGRESSING,
        Reason.SCHEDULING,
        Reason.STARTING,
        Reason.FETCHING,
        Reason.LOADING,
        Reason.TERMINATING,
    }
)
COUNTS: Final = frozenset({"replicas", "readyReplicas", "updatedReplicas", "ready"})


class Pace:
    """Since when each object's status says something that has not been written."""

    def __init__(self) -> None:
        self._since: dict[Key, float] = {}

    def wait(self, key: Key, told: Mapping[str, Any], status: Mapping[str, Any], now: float) -> float:
        """Return for how many seconds more `status` may wait beside `told`, which was written last."""
        if told == status or urgent(told, status):
            self.forget(key)
            return 0.0
        left = self._since.setdefault(key, now) + SETTLE_SECONDS - now
        if left <= 0:
            self.forget(key)
        return max(left, 0.0)

    def forget(self, key: Key) -> None:
        """The status is written, or the object is gone."""
        self._since.pop(key, None)


def urgent(told: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Return whether `status` says something that `told` does not, and that must not wait."""
    return _gist(told) != _gist(status)


def _gist(status: Mapping[str, Any]) -> dict[str, Any]:
    gist = {name: value for name, value in status.items() if name not in COUNTS}
    # Whether a rollout is on decides about other objects' upgrades; how many pods a revision has does not.
    gist["revisions"] = len(status.get("revisions") or ()) > 1
    gist["autoscaling"] = {**(status.get("autoscaling") or {}), "current": None}
    gist["conditions"] = [_value(each) for each in status.get("conditions") or ()]
    return gist


def _value(condition: Mapping[str, Any]) -> tuple[Any, ...]:
    reason = condition.get("reason")
    value = condition.get("type"), condition.get("status"), condition.get("observedGeneration")
    return (*value, None) if reason in PASSING else (*value, reason, condition.get("message"))
