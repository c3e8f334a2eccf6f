"""From `spec.autoscaling` to what the policy is bounded by, at one moment: schedules move the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from slipway_api.quantity import parse_quantity
from slipway_api.v1alpha1 import AutoscalingSpec, ScalingMetric, ScalingRules, SloSpec
from slipway_operator import cron
from slipway_operator.autoscale.behavior import Rate, Speed
from slipway_operator.autoscale.needs import Metric
from slipway_operator.autoscale.terms import DOWN, DOWN_AFTER_UP, UP, Bounds
from slipway_operator.explain.pods import condition_of
from slipway_operator.kinds import Object

_UNITS: Final = {"KVCacheUtilization": 0.01, "TimeToFirstToken": 0.001}
"""What a metric's target is written in, as a share of what the policy counts in: percent, milliseconds."""


def bounds_of(spec: AutoscalingSpec, slo: SloSpec | None, max_num_seqs: int, now: float) -> Bounds:
    """Return the bounds in force at `now`, in seconds since 1970. Raises ValueError for a wrong schedule."""
    up = spec.behavior.scale_up if spec.behavior else None
    down = spec.behavior.scale_down if spec.behavior else None
    shrinking = _speed(down, DOWN)
    tpot = slo.tpot_ms if slo else None
    metrics = tuple(_metric(metric, index) for index, metric in enumerate(spec.metrics or ()))
    return Bounds(
        minimum=min(max(least_of(spec), floor_of(spec, now)), spec.max_replicas),
        maximum=spec.max_replicas,
        spare=spec.spare_replicas or 0,
        metrics=metrics or implied(slo),
        max_num_seqs=max_num_seqs,
        tpot=tpot / 1000 if tpot is not None else None,
        fallback=spec.fallback_replicas,
        up=_speed(up, UP),
        down=shrinking,
        idle=spec.idle_seconds,
        rest=min(DOWN_AFTER_UP, shrinking.window),
    )


def capped(bounds: Bounds, pods: Sequence[Object]) -> Bounds:
    """Return the bounds cut to what nodes have room for: one replica waits for a node, no more.

    Only the scheduler's own word counts: pods that it has not looked at yet say nothing.
    """
    placed = sum(not _finds_no_node(pod) for pod in pods)
    room = max(placed + 1, bounds.minimum, 1)
    if placed == len(pods) or room >= bounds.maximum:
        return bounds
    return replace(bounds, maximum=room, ceiling="what nodes have room for, and one that waits,")


def _finds_no_node(pod: Object) -> bool:
    found = condition_of(pod, "PodScheduled")
    return found.get("status") == "False" and found.get("reason") == "Unschedulable"


def implied(slo: SloSpec | None) -> tuple[Metric, ...]:
    """Return the metrics of an object that names none: the learned target, and the SLO's first token."""
    learned = Metric("InFlight")
    if slo is None or slo.ttft_ms is None:
        return (learned,)
    return learned, Metric("TimeToFirstToken", slo.ttft_ms / 1000, implied=True)


def least_of(spec: AutoscalingSpec) -> int:
    """Return `minReplicas`, or what its absence means."""
    return 1 if spec.min_replicas is None else spec.min_replicas


def floor_of(spec: AutoscalingSpec, now: float) -> int:
    """Return the replicas that schedules ask for at least. Raises ValueError for one that cannot be read."""
    floor = 0
    for schedule in spec.schedules or ():
        try:
            zone = cron.zone_of(schedule.time_zone)
            begun = cron.parse(schedule.start).begun(now, zone, schedule.duration_seconds)
        except ValueError as error:
            raise ValueError(f"autoscaling.schedules {schedule.name}: {error}") from None
        if begun is not None:
            floor = max(floor, schedule.min_replicas)
    return floor


def _metric(metric: ScalingMetric, index: int) -> Metric:
    target = None if metric.target is None else float(parse_quantity(metric.target))
    if target is not None:
        target *= _UNITS.get(metric.type, 1.0)
    return Metric(metric.type, target, query_name(index) if metric.query is not None else "")


def query_name(index: int) -> str:
    """Return what a metric of type `Prometheus` is called in decisions: by its place in the list."""
    return f"metrics[{index}]"


def _speed(rules: ScalingRules | None, default: Speed) -> Speed:
    """Return how fast one direction goes; what the object leaves out stays as it is built in."""
    if rules is None:
        return default
    window = rules.stabilization_window_seconds
    rates = tuple(Rate(rule.type, rule.value, float(rule.period_seconds)) for rule in rules.policies or ())
    return Speed(
        rates=rates or default.rates,
        window=default.window if window is None else float(window),
        select=rules.select_policy or default.select,
        pause=0.0 if rates else default.pause,
        memory=default.memory if window is None else 0.0,
    )
