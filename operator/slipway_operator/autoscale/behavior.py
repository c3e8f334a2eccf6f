"""How fast replicas may come and go: the words of autoscaling/v2's `behavior`, over the steps that were made.

A policy allows so many replicas (or percent of those at its beginning) within a period; what was added or
taken in that period already counts. The rules are those of Kubernetes' horizontal controller
(`calculateScaleUpLimitWithScalingRules` and its counterpart for down).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

LONGEST_PERIOD: Final = 1800.0
"""No policy looks further back, in seconds."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `value` replicas, or percent of them, within `period` seconds."""

    kind: Literal["Pods", "Percent"]
    value: int
    period: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one direction goes.

    `select` says which rate wins; `Disabled` never goes this way. `window` is how far back, in seconds, the
    more careful recommendation counts. `memory` is how far back, going down, a peak still has to fit into
    replicas filled to the brim: traffic that came once may come again sooner than a replica starts.

    `pause` is the least time between two steps; with one (the built-in speeds) a percentage is rounded so
    that more stays, without as Kubernetes rounds it.
    """

    rates: tuple[Rate, ...]
    window: float
    select: Literal["Max", "Min", "Disabled"] = "Max"
    pause: float = 0.0
    memory: float = 0.0


Steps = tuple[tuple[float, int], ...]
"""What was changed when: (time, replicas added; negative: taken away), oldest first."""


def noted(steps: Steps, now: float, change: int) -> Steps:
    """Return the steps with one more, without those that no period reaches."""
    return tuple(step for step in (*steps, (now, change)) if now - step[0] <= LONGEST_PERIOD)


def most(speed: Speed, steps: Steps, current: int, now: float) -> int:
    """Return the highest number of replicas that may be asked for now."""
    if speed.select == "Disabled":
        return current
    limits = []
    for rate in speed.rates:
        start = current - sum(change for change in _within(steps, rate.period, now) if change > 0)
        grown = start + rate.value if rate.kind == "Pods" else math.ceil(start * (1 + rate.value / 100))
        limits.append(grown)
    return max(current, max(limits) if speed.select == "Max" else min(limits))


def least(speed: Speed, steps: Steps, current: int, now: float) -> int:
    """Return the lowest number of replicas that may be left now."""
    if speed.select == "Disabled":
        return current
    limits = []
    for rate in speed.rates:
        start = current - sum(change for change in _within(steps, rate.period, now) if change < 0)
        left = start * (100 - rate.value) / 100
        share = math.ceil(left) if speed.pause else int(left)
        limits.append(start - rate.value if rate.kind == "Pods" else share)
    return min(current, max(0, min(limits) if speed.select == "Max" else max(limits)))


def _within(steps: Sequence[tuple[float, int]], period: float, now: float) -> list[int]:
    return [change for at, change in steps if now - at < period]
