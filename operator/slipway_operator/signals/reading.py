"""One pod's metrics at one moment, and what two of them say about the time between. Pure.

Counters only ever grow: one that fell belongs to an engine that started anew, and says nothing about the time
between two looks. What is not there, or no number, is unknown and never zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from slipway_operator.autoscale.load import PodLoad

RUNNING: Final = "num_requests_running"
WAITING: Final = "num_requests_waiting"
CACHE: Final = "kv_cache_usage_perc"
BETWEEN: Final = "inter_token_latency_seconds"
WHOLE: Final = "e2e_request_latency_seconds"
FIRST: Final = "time_to_first_token_seconds"
MOST_LINES: Final = 20_000
QUANTILE: Final = 0.95
FIRST_WINDOW: Final = 60.0
"""Seconds over which the time to the first token is taken."""

Buckets = Mapping[float, float]
"""A histogram: how many observations were at most so large."""
Sample = tuple[str, Mapping[str, str], float]
"""A sample's name, labels and value."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a pod's metrics said `at` a moment: gauges as they were, counters since the engine started.

    `token_seconds` over `tokens` is the mean time between tokens, `ended` counts requests, `first` is the
    histogram of the time to the first token. None is unknown.
    """

    at: float
    running: float
    waiting: float
    cache: float | None = None
    token_seconds: float | None = None
    tokens: float | None = None
    ended: float | None = None
    first: Buckets | None = None


def wanted(names: Mapping[str, str], *, first: bool) -> list[str]:
    """Return the names of the samples that a reading is made of, in the engine's words."""
    series = [(RUNNING, ""), (WAITING, ""), (CACHE, ""), (BETWEEN, "_sum"), (BETWEEN, "_count")]
    series += [(WHOLE, "_count"), *([(FIRST, "_bucket")] if first else [])]
    return [names[name] + suffix for name, suffix in series if names.get(name)]


def parse(text: str, names: Collection[str]) -> list[Sample]:
    """Return the samples of some names in Prometheus' text format. Raises ValueError for anything else."""
    starts = tuple(names)
    lines = [line for line in text.splitlines() if line.startswith(starts)]
    if len(lines) > MOST_LINES:
        raise ValueError(f"{len(lines)} lines of metrics; at most {MOST_LINES} are read")
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [(one.name, one.labels, one.value) for family in families for one in family.samples]


def read(samples: Iterable[Sample], names: Mapping[str, str], at: float) -> Reading | None:
    """Return the reading in the samples of one pod; None where its requests are not among them.

    Several series of one name (an engine of several ranks) add up; of cache use the fullest counts.
    """
    sums: dict[str, float] = {}
    fullest: float | None = None
    buckets: dict[float, float] = {}
    cache, first = names.get(CACHE), f"{names.get(FIRST, '')}_bucket"
    for name, labels, value in samples:
        if name == cache:
            share = value if 0 <= value <= 1 else math.nan
            fullest = share if fullest is None or not share <= fullest else fullest
        elif name == first:
            edge = _edge(labels.get("le", ""))
            if not math.isnan(edge):
                buckets[edge] = buckets.get(edge, 0.0) + value
        else:
            sums[name] = sums.get(name, 0.0) + value
    running, waiting = (_known(sums.get(names.get(name, ""))) for name in (RUNNING, WAITING))
    if running is None or waiting is None:
        return None
    between = names.get(BETWEEN, "")
    return Reading(
        at=at,
        running=running,
        waiting=waiting,
        cache=_known(fullest),
        token_seconds=_known(sums.get(f"{between}_sum")),
        tokens=_known(sums.get(f"{between}_count")),
        ended=_known(sums.get(f"{names.get(WHOLE, '')}_count")),
        first=buckets if buckets and all(map(math.isfinite, buckets.values())) else None,
    )


def load_of(name: str, before: Reading | None, now: Reading, *, serving: bool) -> PodLoad:
    """Return a pod's load from two readings; with one only, what a moment can tell."""
    tpot = finishing = None
    if before is not None and before.at < now.at and not restarted(before, now):
        tokens = _grown(before.tokens, now.tokens)
        seconds = _grown(before.token_seconds, now.token_seconds)
        ended = _grown(before.ended, now.ended)
        tpot = seconds / tokens if tokens and seconds is not None else None
        finishing = ended / (now.at - before.at) if ended is not None else None
    return PodLoad(name, now.at, now.running, now.waiting, now.cache, tpot, finishing, serving)


def restarted(before: Reading, now: Reading) -> bool:
    """Return whether a counter fell: the engine started anew between two readings."""
    pairs = ((before.tokens, now.tokens), (before.ended, now.ended))
    return any(then is not None and value is not None and value < then for then, value in pairs)


def first_tokens(pairs: Iterable[tuple[Reading, Reading]]) -> float | None:
    """Return the 95th percentile of the time to the first token between readings of several pods, in seconds.

    0 where nobody waited for one, None where that is not known.
    """
    total: dict[float, float] = {}
    idle = True
    for before, now in pairs:
        if before.first is None or now.first is None:
            return None
        fresh = restarted(before, now)
        for edge, count in now.first.items():
            total[edge] = total.get(edge, 0.0) + max(0.0, count - (0 if fresh else before.first.get(edge, 0)))
        idle = idle and not now.running + now.waiting
    if total.get(math.inf):
        return quantile(QUANTILE, total)
    return 0.0 if idle and total else None


def quantile(share: float, buckets: Buckets) -> float | None:
    """Return a quantile of a histogram, on a line within its bucket; None where it is empty.

    As Prometheus' `histogram_quantile`: beyond the last finite edge it is that edge.
    """
    edges: Sequence[float] = sorted(buckets)
    if not edges or edges[-1] != math.inf or not buckets[math.inf] > 0:
        return None
    rank = share * buckets[math.inf]
    low = below = 0.0
    for edge in edges:
        if buckets[edge] >= rank:
            if edge == math.inf:
                return low
            inside = buckets[edge] - below
            return low + (edge - low) * ((rank - below) / inside if inside else 1.0)
        low, below = edge, buckets[edge]
    return low


def _grown(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(0.0, now - before)


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _edge(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
