"""The figures of a run: share within the SLO, percentiles, what it cost, how often it changed its mind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from slipway_operator.ranks import nearest_rank
from slipway_operator.simulate.world import Outcome

REVERSAL_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Slo:
    """Time to first token and time per output token, in seconds."""

    ttft: float = 2.0
    tpot: float = 0.15


@dataclass(frozen=True, slots=True)
class Report:
    """One policy's figures; times in seconds, `slo_percent` of all requests, hours of one replica."""

    policy: str
    requests: int
    slo_percent: float
    ttft_p50: float
    ttft_p95: float
    ttft_p99: float
    replica_hours: float
    starts: int
    reversals: int
    most_replicas: int


def report(name: str, outcome: Outcome, slo: Slo) -> Report:
    """Return the figures of one run."""
    first = sorted(job.ttft for job in outcome.jobs)
    good = sum(job.ttft <= slo.ttft and job.tpot <= slo.tpot for job in outcome.jobs)
    return Report(
        policy=name,
        requests=len(outcome.jobs),
        slo_percent=round(100 * good / max(1, len(first)), 2),
        ttft_p50=_percentile(first, 50),
        ttft_p95=_percentile(first, 95),
        ttft_p99=_percentile(first, 99),
        replica_hours=round(outcome.replica_seconds / 3600, 2),
        starts=outcome.starts,
        reversals=_reversals(outcome.decisions),
        most_replicas=max((wanted for _, wanted, _, _ in outcome.timeline), default=0),
    )


def _percentile(ordered: Sequence[float], part: int) -> float:
    return round(nearest_rank(ordered, part), 3) if ordered else 0.0


def _reversals(decisions: Sequence[tuple[float, int]]) -> int:
    """Count the changes that undo the one before within five minutes."""
    return sum(
        (before > 0) != (after > 0) and later - earlier < REVERSAL_SECONDS
        for (earlier, before), (later, after) in pairwise(decisions)
    )
