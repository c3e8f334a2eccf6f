"""Percentiles by nearest rank: always a value that was seen, never one between two."""

from __future__ import annotations

from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], percent: int) -> float:
    """Return a percentile of values in rising order, at least one; `percent` is 1 to 100."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
