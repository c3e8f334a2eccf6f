"""`spec.autoscaling`: how many replicas, by what they are asked to do. Words and defaults of
autoscaling/v2."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from slipway_api.quantity import Quantity
from slipway_api.rules import Rule
from slipway_api.v1alpha1.base import Spec, map_of

Replicas = Annotated[int, Field(ge=0, le=1000)]


class ScalingMetric(Spec):
    """A signal and its target, per replica."""

    type: Literal["InFlight", "QueueDepth", "KVCacheUtilization", "TimeToFirstToken", "Prometheus"]
    """`InFlight`: requests in a replica or held for it; `QueueDepth`: those that wait; `KVCacheUtilization`:
    percent; `TimeToFirstToken`: milliseconds; `Prometheus`: the result of `query`."""
    target: Quantity | None = None
    """The value to hold. Absent: learned from what a replica proved to carry (`InFlight` only)."""
    query: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """A PromQL expression with one result. A class has to allow it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.type == 'Prometheus') == has(self.query)",
            holds=lambda metric: (metric.type == "Prometheus") == (metric.query is not None),
            message="query belongs to metric type Prometheus, which needs it",
        ),
        Rule(
            cel="self.type == 'InFlight' || has(self.target)",
            holds=lambda metric: metric.type == "InFlight" or metric.target is not None,
            message="target is missing; only that of InFlight can be learned",
        ),
    )


class ScalingPolicy(Spec):
    """How much may change within a period."""

    type: Literal["Pods", "Percent"]
    """What `value` counts."""
    value: Annotated[int, Field(ge=1, le=1000)]
    """Most replicas, or percent of them, that change within the period."""
    period_seconds: Annotated[int, Field(ge=1, le=1800)]
    """Length of the period."""


class ScalingRules(Spec):
    """How fast one direction goes."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """How far back recommendations count; the most careful one wins."""
    select_policy: Literal["Max", "Min", "Disabled"] | None = None
    """Which policy wins; `Disabled` never goes this way."""
    policies: Annotated[list[ScalingPolicy], Field(min_length=1, max_length=8)] | None = None
    """The policies."""


class ScalingBehavior(Spec):
    """How fast the number of replicas changes."""

    scale_up: ScalingRules | None = None
    """Towards more."""
    scale_down: ScalingRules | None = None
    """Towards less."""


class ScalingSchedule(Spec):
    """A floor at known times."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the schedule."""
    start: Annotated[
        str,
        Field(max_length=64),
        Rule(
            cel="self.matches('^[-0-9*,/]+( [-0-9*,/]+){4}$')",
            holds=lambda v: re.fullmatch(r"[-0-9*,/]+( [-0-9*,/]+){4}", v) is not None,
            message="must be five cron fields in digits, for example 0 8 * * 1-5",
        ),
    ]
    """When it begins: minute, hour, day of the month, month, day of the week."""
    duration_seconds: Annotated[int, Field(ge=60, le=604_800)]
    """How long it holds."""
    min_replicas: Replicas
    """Replicas it holds at least."""
    time_zone: Annotated[str, Field(max_length=64)] | None = None
    """IANA time zone. Absent: UTC."""


class AutoscalingSpec(Spec):
    """Lets the operator choose the number of replicas; `spec.replicas` is ignored then."""

    min_replicas: Replicas | None = None
    """Least replicas; 0 lets it go to zero, while the gateway holds requests. Absent: 1."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Most replicas."""
    spare_replicas: Annotated[int, Field(ge=0, le=100)] | None = None
    """Replicas kept beyond what the load needs. Absent: 0."""
    fallback_replicas: Replicas | None = None
    """Least replicas while no metric can be read. Absent: those it had."""
    idle_seconds: Annotated[int, Field(ge=60, le=604_800)] | None = None
    """Time without requests before it goes to zero. Absent: 600, or five times the time to start."""
    metrics: Annotated[list[ScalingMetric], Field(min_length=1, max_length=8)] | None = None
    """Signals; the one that asks for most decides. Absent: `InFlight` with a learned target, and
    `TimeToFirstToken` where `slo.ttftMs` is given."""
    behavior: ScalingBehavior | None = None
    """How fast it goes."""
    schedules: Annotated[list[ScalingSchedule], Field(max_length=16)] | None = Field(
        default=None, json_schema_extra=map_of("name")
    )
    """Floors at known times."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            holds=lambda spec: spec.min_replicas is None or spec.min_replicas <= spec.max_replicas,
            message="autoscaling.minReplicas is above maxReplicas; raise maxReplicas",
        ),
    )
