"""How many replicas are wanted: what the object says, or the autoscaler's last decision within bounds."""

from __future__ import annotations

from slipway_api.conditions import Reason
from slipway_api.quantity import parse_quantity
from slipway_api.v1alpha1 import AutoscalingSpec, LLMClassSpec
from slipway_operator import cron
from slipway_operator.plan.classes import Classed, Refused
from slipway_operator.plan.world import Scaled


def replicas_of(found: Classed, scaled: Scaled | None) -> int:
    """Return the replicas wanted. Without a decision as many as an object begins with. Raises Refused."""
    spec = found.spec
    if spec.autoscaling is not None:
        check(spec.autoscaling, found.offer)
    if spec.suspend:
        return 0
    if spec.autoscaling is None:
        return spec.replicas
    return spec_bounded(spec.autoscaling, scaled.replicas) if scaled else beginning(spec.autoscaling)


def beginning(spec: AutoscalingSpec) -> int:
    """Return the replicas of an object that has none yet: at least one, which shows that it works."""
    return max(1, spec.min_replicas or 0)


def spec_bounded(spec: AutoscalingSpec, replicas: int) -> int:
    """Return a decision within the bounds of the moment, which may have been edited since."""
    low = 1 if spec.min_replicas is None else spec.min_replicas
    return min(max(replicas, low), spec.max_replicas)


def check(spec: AutoscalingSpec, offer: LLMClassSpec | None) -> None:
    """Raise Refused where a schedule or a target could be written and means nothing, or a query is not open.

    A query reads whatever the operator's Prometheus holds, other tenants' numbers too, and the status shows
    its result: so it has to be opened by a class, and none in force opens nothing.
    """
    queries = any(metric.query is not None for metric in spec.metrics or ())
    if queries and not (offer and offer.allow and offer.allow.prometheus_queries):
        raise Refused(
            Reason.CLASS_DENIED,
            "spec.autoscaling.metrics of type Prometheus need a class that opens them "
            "(allow.prometheusQueries); name one in spec.className, or take another type",
        )
    for schedule in spec.schedules or ():
        try:
            cron.parse(schedule.start)
            cron.zone_of(schedule.time_zone)
        except ValueError as error:
            raise Refused(
                Reason.INVALID_SPEC, f"spec.autoscaling.schedules {schedule.name}: {error}"
            ) from None
        if schedule.min_replicas > spec.max_replicas:
            raise Refused(
                Reason.INVALID_SPEC,
                f"spec.autoscaling.schedules {schedule.name}: minReplicas {schedule.min_replicas} is above "
                f"maxReplicas {spec.max_replicas}; raise autoscaling.maxReplicas",
            )
    for index, metric in enumerate(spec.metrics or ()):
        if metric.target is not None and parse_quantity(metric.target) <= 0:
            raise Refused(
                Reason.INVALID_SPEC,
                f"spec.autoscaling.metrics[{index}].target {metric.target} is not above 0; write the value "
                "that one replica should be held at",
            )
