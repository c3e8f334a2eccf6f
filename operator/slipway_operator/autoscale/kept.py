"""What was learned of a replica, as the status keeps it, and back: for the next operator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from slipway_api.v1alpha1 import LearnedStatus
from slipway_operator.autoscale.capacity import MIN_ENDS, MIN_WEIGHT, Learned, stay
from slipway_operator.moments import seconds_of, text_of

MOVED: Final = 0.05
"""A change of the requests that a replica bears that is worth writing."""
KEPT_ENDS: Final = 10 * MIN_ENDS
TRUST: Final = 5 * MIN_WEIGHT
"""How many samples the kept line counts as: enough to be used, few enough to be corrected."""


def kept(learned: Learned, bears: float, bound: str, start_seconds: float) -> LearnedStatus:
    """Return what to keep of what was learned."""
    line = learned.line()
    mean = learned.r / learned.weight if line is not None else 0.0
    variance = learned.rr / learned.weight - mean**2 if line is not None else 0.0
    runs = stay(learned, mean)
    return LearnedStatus(
        replica=_text(bears),
        bounded_by=bound,
        base_seconds=_text(line[0]) if line else None,
        each_seconds=_text(line[1]) if line else None,
        mean=_text(mean) if line else None,
        variance=_text(variance) if line else None,
        full=None if learned.full is None else _text(learned.full),
        full_at=None if learned.full is None else text_of(learned.full_at),
        per_cache=None if learned.per_cache is None else _text(learned.per_cache),
        stay_seconds=None if runs is None else _text(runs),
        start_seconds=_text(start_seconds),
    )


def revived(told: Mapping[str, Any]) -> Learned:
    """Return what a status tells; what it does not tell, or tells wrongly, is learned anew."""
    base, each = (_number(told.get(name)) for name in ("baseSeconds", "eachSeconds"))
    mean, variance = (_number(told.get(name)) for name in ("mean", "variance"))
    sums: dict[str, float] = {}
    if base is not None and each is not None and mean is not None and variance is not None:
        squares = mean**2 + max(0.0, variance)
        sums = {
            "weight": TRUST,
            "r": TRUST * mean,
            "t": TRUST * (base + each * mean),
            "rr": TRUST * squares,
            "rt": TRUST * (base * mean + each * squares),
        }
    full_at = seconds_of(told.get("fullAt"))
    runs = positive(told.get("staySeconds"))
    if runs is not None:
        pace = base + each * mean if sums and base and each and mean else None
        sums |= {"busy": runs * KEPT_ENDS, "ends": KEPT_ENDS}
        sums |= {"spent": runs * KEPT_ENDS / pace} if pace else {}
    return Learned(
        **sums,
        full=positive(told.get("full")) if full_at is not None else None,
        full_at=full_at or 0.0,
        per_cache=positive(told.get("perCache")),
    )


def start_of(told: Mapping[str, Any]) -> float | None:
    """Return the seconds that a replica takes to start, where a status tells."""
    return positive(told.get("startSeconds"))


def moved(before: LearnedStatus | None, now: LearnedStatus) -> bool:
    """Return whether a replica bears so much more or less than is written that it is worth a write."""
    old = _number(before.replica) if before is not None else None
    new = _number(now.replica)
    return old is None or new is None or abs(new - old) > MOVED * old


def _text(value: float) -> str:
    return f"{value:.6g}"


def _number(value: object) -> float | None:
    try:
        number = float(str(value)) if value is not None and len(str(value)) < 40 else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) < 1e9 else None


def positive(value: object) -> float | None:
    """Return a number of a status that is above 0; None for anything else."""
    number = _number(value)
    return number if number is not None and number > 0 else None
