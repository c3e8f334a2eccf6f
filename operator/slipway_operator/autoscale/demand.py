"""The requests in flight that the traffic of the moment, and of the next start, will settle at.

What is in the system misleads while replicas are short: crowded replicas hold their requests longer, and a
queue grows for want of others. Traffic does not: by Little's law (arrivals a second) x (seconds that a
request runs in a well-filled replica) requests run once there are replicas enough. Arrivals are what ends and
what the system gains. Where they grow by more than chance, the growth is followed for as long as a new
replica takes to come. A queue that stands has to be worked off besides, within `DRAIN` seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

DRAIN: Final = 60.0
"""Seconds within which a queue should be gone once replicas are there."""

NOW: Final = 60.0
TREND: Final = 120.0
"""Seconds of history: what counts as now, and what a trend is read from."""

LEAST: Final = 30.0
"""Seconds of history below which nothing is said of traffic."""

AHEAD: Final = 180.0
"""Growth is followed no further than this."""

SURE: Final = 1.5
"""Standard deviations of Poisson arrivals that are taken off measured growth: the rest is hardly chance."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One look: when, the requests in the system then, and those that ended since the first look."""

    at: float
    present: float
    ended: float

    @property
    def arrived(self) -> float:
        """Return the requests that have come, counted from an arbitrary beginning."""
        return self.present + self.ended


@dataclass(frozen=True, slots=True)
class Traffic:
    """Arrivals a second: now, by the time that a new replica serves, and on the mean of the last `TREND`."""

    now: float
    soon: float
    lasting: float


def traffic(recent: Sequence[Moment], ahead: float) -> Traffic | None:
    """Return the traffic in the looks of the last `TREND` seconds, oldest first; None where they are too few.

    `ahead` is how many seconds a new replica takes to come.
    """
    present = [one for one in recent if recent[-1].at - one.at <= NOW]
    if not recent or recent[-1].at - recent[0].at < LEAST:
        return None
    level, middle = rate(present), (present[0].at + present[-1].at) / 2
    slope = max(growth(recent), growth(present))
    now = level + slope * (recent[-1].at - middle)
    return Traffic(now, now + slope * min(ahead, AHEAD), rate(recent))


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests in flight to provide for: now, by the time that a new replica serves, and lastingly."""

    now: float
    soon: float
    lasting: float


def rate(moments: Sequence[Moment]) -> float:
    """Return the arrivals a second between the first and the last of some looks."""
    span = moments[-1].at - moments[0].at if moments else 0.0
    return max(0.0, (moments[-1].arrived - moments[0].arrived) / span) if span > 0 else 0.0


def growth(moments: Sequence[Moment]) -> float:
    """Return by how much the arrivals a second grow each second at least, by least squares.

    Independent arrivals vary as the square root of their number does (Poisson). `SURE` times what that does
    to a slope is taken off it: steps that follow noise would be paid with starts.
    """
    found = [((a.at + b.at) / 2, rate((a, b)), b.at - a.at) for a, b in pairwise(moments) if b.at > a.at]
    if len(found) < 3:
        return 0.0
    weight = sum(span for _, _, span in found)
    mean_t = sum(at * span for at, _, span in found) / weight
    mean_v = sum(value * span for _, value, span in found) / weight
    spread = sum((at - mean_t) ** 2 * span for at, _, span in found)
    if not spread:
        return 0.0
    slope = sum((at - mean_t) * (value - mean_v) * span for at, value, span in found) / spread
    chance = math.sqrt(max(mean_v, 1 / weight) / spread)
    return max(0.0, slope - SURE * chance)


def settled(running: float, waiting: float, found: Traffic | None, stay: float | None) -> Demand:
    """Return the requests in flight to provide for.

    `running` counts requests as if the replicas were well filled, `stay` is how many seconds a request runs
    in a well-filled replica. Where that or the traffic is not known, what is in the system has to do.
    """
    if found is None or stay is None:
        return Demand(running + waiting, running + waiting, running + waiting)
    queue = waiting * min(1.0, stay / DRAIN)
    now = max(running, found.now * stay)
    return Demand(now + queue, max(now, found.soon * stay) + queue, found.lasting * stay + queue)
