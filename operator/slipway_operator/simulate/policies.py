"""The policies to compare: ours, and the rules of the autoscalers that people use, from their documentation.

HPA: kubernetes.io, "Algorithm details" and the default `behavior`. KEDA drives an HPA with the larger of two
metrics. Knative: the KPA's stable and panic windows (knative.dev, "Configuring concurrency").
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from slipway_operator.autoscale.load import Load
from slipway_operator.autoscale.needs import in_flight
from slipway_operator.autoscale.policy import decide
from slipway_operator.autoscale.terms import PERIOD, Bounds, Decision, Memory

TOLERANCE: Final = 0.1


class Ours:
    """The operator's own policy module. `bounds` may be a function of the time: schedules move them."""

    def __init__(self, bounds: Bounds | Callable[[float], Bounds], name: str = "slipway") -> None:
        self.name = name
        self.period = PERIOD
        self._bounds = bounds if callable(bounds) else lambda _: bounds
        self._memory = Memory()
        self.decisions: list[tuple[float, Decision]] = []

    def replicas(self, load: Load) -> int:
        """Decide, and keep what was said."""
        decision, self._memory = decide(self._bounds(load.now), self._memory, load)
        if decision.replicas != load.current:
            self.decisions.append((load.now, decision))
        return decision.replicas


class Static:
    """A fixed number of replicas."""

    def __init__(self, count: int, name: str = "") -> None:
        self.name = name or f"static {count}"
        self.period = 60.0
        self._count = count

    def replicas(self, load: Load) -> int:
        """Return the number."""
        return self._count


Average = Callable[[Load], float]
"""A metric's mean over the ready pods, divided by its target."""


class Hpa:
    """autoscaling/v2 with its default behaviour, on the largest of some average metrics."""

    period = 15.0

    def __init__(self, name: str, ratios: tuple[Average, ...], low: int, high: int) -> None:
        self.name = name
        self._ratios = ratios
        self._low, self._high = low, high
        self._advice: deque[tuple[float, int]] = deque()

    def replicas(self, load: Load) -> int:
        """Return what an HPA would write."""
        wanted = max(self._low, *(self._advised(ratio(load), load) for ratio in self._ratios))
        self._advice.append((load.now, wanted))
        while load.now - self._advice[0][0] > 300:
            self._advice.popleft()
        if wanted > load.current:
            return min(wanted, self._high, max(load.current + 4, 2 * load.current))
        return min(self._high, max(wanted, min(load.current, max(value for _, value in self._advice))))

    def _advised(self, ratio: float, load: Load) -> int:
        """An average over the ready pods; pods that are not ready yet count as zero when it would go up."""
        if abs(ratio - 1) <= TOLERANCE:
            return load.current
        wanted = math.ceil(round(ratio * load.ready, 6))
        return max(wanted, load.current) if ratio > 1 and wanted < load.current else wanted


class Knative:
    """The KPA: concurrency over a stable window of 60 s, and of 6 s in panic, when it would be doubled."""

    period = 2.0

    def __init__(self, target: float, low: int, high: int) -> None:
        self.name = f"Knative KPA {target:g}"
        self._target = 0.7 * target
        self._low, self._high = low, high
        self._seen: deque[tuple[float, float]] = deque()
        self._panic_until = -math.inf
        self._panic_most = 0

    def replicas(self, load: Load) -> int:
        """Return what the KPA would ask for."""
        self._seen.append((load.now, in_flight(load)))
        while load.now - self._seen[0][0] > 60:
            self._seen.popleft()
        stable = self._wanted(60, load.now)
        panic = self._wanted(6, load.now)
        if panic >= 2 * max(1, load.ready):
            if load.now > self._panic_until:
                self._panic_most = 0
            self._panic_until = load.now + 60
        wanted = stable
        if load.now <= self._panic_until:
            self._panic_most = wanted = max(self._panic_most, panic, load.current)
        return max(self._low, min(self._high, wanted))

    def _wanted(self, window: float, now: float) -> int:
        values = [value for at, value in self._seen if now - at <= window]
        return math.ceil(round(sum(values) / len(values) / self._target, 6))


def waiting(target: float) -> Average:
    """Return the mean of waiting requests over its target."""
    return lambda load: _mean(load, sum(pod.waiting for pod in load.fresh)) / target


def concurrent(target: float) -> Average:
    """Return the mean of requests in flight over its target."""
    return lambda load: _mean(load, in_flight(load)) / target


def cache(target: float) -> Average:
    """Return the mean use of the KV cache over its target."""
    return lambda load: _mean(load, sum(pod.kv_cache or 0.0 for pod in load.fresh)) / target


def _mean(load: Load, total: float) -> float:
    return total / max(1, load.ready)
