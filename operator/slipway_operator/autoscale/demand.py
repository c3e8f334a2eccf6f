"""The requests in flight that the traffic of the moment will settle at, given replicas enough.

What is in the system now misleads while replicas are short: a queue grows for want of them. By Little's law
traffic keeps (arrivals a second) x (seconds that a request runs) requests running; arrivals are what ends a
second and what the system gains a second. A queue that stands has to be worked off besides, within `DRAIN`
seconds. Where nothing waits, growth that is more than noise is followed for as long as a new replica takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

DRAIN: Final = 60.0
"""Seconds within which a queue should be gone once replicas are there."""

NOW: Final = 30.0
TREND: Final = 120.0
"""Seconds of history: what counts as now, and what a trend is read from."""

AHEAD: Final = 180.0
"""Growth is followed no further than this."""


def settled(
    recent: Sequence[tuple[float, float]], running: float, waiting: float, stay: float | None, ahead: float
) -> float:
    """Return the requests in flight to provide for.

    `recent` holds (time, requests in the system) of the last `TREND` seconds, oldest first; `stay` is how
    long a request runs, `ahead` how long a new replica takes to come. All times in seconds.
    """
    total = running + waiting
    last = recent[-1][0] if recent else 0.0
    present = [entry for entry in recent if last - entry[0] <= NOW]
    mean = sum(value for _, value in present) / len(present) if present else total
    if waiting <= 0:
        return max(total, mean) + growth(recent) * min(ahead, AHEAD)
    if stay is None:
        return max(total, mean)
    return running + growth(present) * min(stay, DRAIN) + waiting * min(1.0, stay / DRAIN)


def growth(recent: Sequence[tuple[float, float]]) -> float:
    """Return the requests a second that the system gains, by least squares; 0 where it may be noise.

    Counts of requests vary as their square root does; growth of less than twice what that does to a slope is
    none.
    """
    count = len(recent)
    if count < 3:
        return 0.0
    mean_t = sum(at for at, _ in recent) / count
    mean_v = sum(value for _, value in recent) / count
    spread = sum((at - mean_t) ** 2 for at, _ in recent)
    if not spread:
        return 0.0
    slope = sum((at - mean_t) * (value - mean_v) for at, value in recent) / spread
    noise = (max(1.0, mean_v) / spread) ** 0.5
    return slope if slope > 2 * noise else 0.0
