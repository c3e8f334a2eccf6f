"""The words of a decision: what it is bounded by, what is remembered, what it says, how fast it may go."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from slipway_operator.autoscale.behavior import Rate, Speed, Steps
from slipway_operator.autoscale.capacity import Learned
from slipway_operator.autoscale.demand import Moment
from slipway_operator.autoscale.needs import Metric

PERIOD: Final = 10.0
"""Seconds between two decisions."""

UP_EVERY: Final = 30.0
DOWN_EVERY: Final = 60.0
DOWN_AFTER_UP: Final = 300.0
DOWN_WINDOW: Final = 300.0
PEAK_MEMORY: Final = 3600.0
MAX_REPLICAS: Final = "maxReplicas"


class Why(StrEnum):
    """What a decision rests on; the words become the condition's reason."""

    STEADY = "ReadyForNewScale"
    UP = "ScaledUp"
    DOWN = "ScaledDown"
    TO_ZERO = "ScaledToZero"
    FROM_ZERO = "Woken"
    AT_MAXIMUM = "TooManyReplicas"
    AT_MINIMUM = "TooFewReplicas"
    WAITING = "BackoffBoth"
    STALE = "MetricsStale"
    FALLBACK = "FallbackReplicas"


UP: Final = Speed((Rate("Pods", 4, UP_EVERY), Rate("Percent", 100, UP_EVERY)), 0.0, pause=UP_EVERY)
DOWN: Final = Speed(
    (Rate("Pods", 1, DOWN_EVERY), Rate("Percent", 10, DOWN_EVERY)),
    DOWN_WINDOW,
    pause=DOWN_EVERY,
    memory=PEAK_MEMORY,
)
"""The speeds where the object names none: slower than autoscaling/v2's, since a replica takes minutes."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What `spec.autoscaling` says, resolved.

    `tpot` is the SLO in seconds a token, `idle` the seconds without requests before zero (None: as long as
    starts are worth), `rest` those between a step up and the next one down.
    """

    minimum: int
    maximum: int
    spare: int = 0
    metrics: tuple[Metric, ...] = (Metric("InFlight"),)
    max_num_seqs: int = 64
    tpot: float | None = None
    fallback: int | None = None
    up: Speed = UP
    down: Speed = DOWN
    idle: float | None = None
    rest: float = DOWN_AFTER_UP
    ceiling: str = MAX_REPLICAS
    """What the maximum comes from."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is carried from one decision to the next.

    `needed` holds (time, replicas that must stay when some are taken away), `asked` (time, replicas that a
    step up aimed at), both as far back as their windows reach. `peaks` holds (time, replicas that would just
    have done), of an hour those that no later one exceeds.
    """

    learned: Learned = field(default_factory=Learned)
    recent: tuple[Moment, ...] = ()
    needed: tuple[tuple[float, float], ...] = ()
    peaks: tuple[tuple[float, float], ...] = ()
    asked: tuple[tuple[float, int], ...] = ()
    steps: Steps = ()
    last_up: float = -math.inf
    last_down: float = -math.inf
    blind_since: float | None = None
    busy_at: float | None = None
    served: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The number of replicas, what it rests on, and the arithmetic as one sentence."""

    replicas: int
    why: Why
    text: str
