"""The bounds of the latency histograms that promises are held against, in seconds.

The engine counts with them, and the operator tells Prometheus which of them a promise falls between. vLLM's
histograms of the same names have all of these bounds from 10 ms to 5 s, and more.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

FIRST_TOKEN: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    160.0, 640.0,
)  # fmt: skip
BETWEEN_TOKENS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
    40.0,
)  # fmt: skip


def shares(bounds: tuple[float, ...], limit: float) -> dict[float, float]:
    """Return the bounds beside `limit` with the share that each counts for; the shares' sum is at most 1.

    The share of a histogram's values up to `limit` is the sum of its buckets up to these bounds, each times
    its share: linear within a bucket, as `histogram_quantile` takes it. Beyond the last bound it is that one.
    """
    place = bisect_left(bounds, limit)
    if place == len(bounds):
        return {bounds[-1]: 1.0}
    high = bounds[place]
    low = bounds[place - 1] if place else 0.0
    part = (limit - low) / (high - low)
    return {bound: share for bound, share in ((low, 1.0 - part), (high, part)) if bound and share}
