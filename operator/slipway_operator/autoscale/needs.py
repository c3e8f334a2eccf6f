"""Each metric's answer to one question: how many replicas does this load need, to grow and to shrink?

`up` is what has to be there soon, `down` what must stay when replicas are taken away: further from the limit,
and counting a silent pod as full. The arithmetic travels with the number, for people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from slipway_operator.autoscale.demand import Demand
from slipway_operator.autoscale.load import Load

Kind: TypeAlias = Literal["InFlight", "QueueDepth", "KVCacheUtilization", "TimeToFirstToken", "Prometheus"]

FILL_UP: Final = 0.8
FILL_DOWN: Final = 0.7
TOLERANCE: Final = 0.1
"""autoscaling/v2's: a ratio this close to one asks for nothing."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of `autoscaling.metrics`. `target` is per replica: requests, a share, seconds, or the query's
    own unit; None is the learned target (InFlight only)."""

    kind: Kind
    target: float | None = None
    name: str = ""
    implied: bool = False
    """Whether the SLO asks for it and no entry does: where it cannot be read it is left out."""


@dataclass(frozen=True, slots=True)
class Need:
    """Replicas that a metric asks for, before bounds and behaviour; fractions are rounded up later.

    `soon` is what growth will need by the time that a new replica serves; spare ones are for what nobody saw
    coming, so they are not added to it. `peak` is what would just do, replicas filled to the brim.
    """

    up: float
    down: float
    text: str
    soon: float = 0.0
    peak: float = 0.0


def need(metric: Metric, load: Load, demand: Demand, capacity: float) -> Need | None:
    """Return what a metric asks for; None where it cannot be read."""
    match metric.kind:
        case "InFlight" if metric.target is None:
            return _learned(load, demand, capacity)
        case "InFlight":
            return _in_flight(metric, load, demand)
        case "QueueDepth":
            return _per_replica(
                metric, load, sum(pod.waiting for pod in load.fresh) + (load.held or 0), "waiting"
            )
        case "KVCacheUtilization":
            return _share(metric, load)
        case "TimeToFirstToken":
            return _latency(metric, load)
        case "Prometheus":
            return _per_query(metric, load)


def in_flight(load: Load) -> float:
    """Return the requests in the system: in the pods and held at the gateway."""
    return sum(pod.requests for pod in load.fresh) + (load.held or 0.0)


def _learned(load: Load, demand: Demand, capacity: float) -> Need:
    full = demand.lasting + load.silent * capacity
    filled = FILL_UP * capacity
    text = f"{_worded(demand)} / ({FILL_UP:.0%} of {capacity:.1f} a replica bears)"
    return Need(
        demand.now / filled,
        full / (FILL_DOWN * capacity),
        text,
        demand.soon / filled,
        demand.lasting / capacity,
    )


def _in_flight(metric: Metric, load: Load, demand: Demand) -> Need:
    target = metric.target or 1.0
    now = _per_replica(metric, load, demand.now, "requests in flight")
    soon = _tolerated(demand.soon / target, load.ready)
    return replace(
        now, soon=soon, peak=FILL_UP * demand.lasting / target, text=f"{_worded(demand)} / {target:g}"
    )


def _worded(demand: Demand) -> str:
    coming = f", {demand.soon:.1f} by the time of a start" if demand.soon > demand.now else ""
    return f"{demand.now:.1f} requests in flight{coming}"


def _per_replica(metric: Metric, load: Load, total: float, unit: str) -> Need:
    target = metric.target or 1.0
    wanted = _tolerated(total / target, load.ready)
    return Need(
        wanted, _tolerated(total / target + load.silent, load.ready), f"{total:.1f} {unit} / {target:g}"
    )


def _share(metric: Metric, load: Load) -> Need | None:
    shares = [pod.kv_cache for pod in load.fresh if pod.kv_cache is not None]
    if not shares or len(shares) < len(load.fresh):
        return None
    used, target = sum(shares), metric.target or 1.0
    wanted = _tolerated(used / target, load.ready)
    return Need(wanted, wanted + load.silent, f"KV cache in use of {used:.2f} replicas / {target:g}")


def _latency(metric: Metric, load: Load) -> Need | None:
    """A latency over its target, times the replicas that serve: those still loading did not cause it.

    An implied one is a guard beside the learned target: it waits for replicas on their way, and asks for half
    as many again at most, since a latency of the last minute outlives its cause.
    """
    value, ready = load.ttft, load.ready
    if value is None or not ready or (metric.implied and ready < load.current):
        return None
    target = metric.target or 1.0
    wanted = _tolerated(ready * value / target, ready)
    if metric.implied:
        wanted = min(wanted, 1.5 * ready)
    down = 0.0 if metric.implied and wanted < ready else wanted + load.silent
    return Need(wanted, down, f"{ready} x {value:.2f} s to the first token / {target:g}")


def _per_query(metric: Metric, load: Load) -> Need | None:
    value = dict(load.values).get(metric.name)
    if value is None:
        return None
    return _per_replica(metric, load, value, f"by query {metric.name}")


def _tolerated(wanted: float, ready: int) -> float:
    if ready and abs(wanted / ready - 1) <= TOLERANCE:
        return float(ready)
    return wanted
