"""Moments: RFC 3339 as Kubernetes writes it, seconds since 1970 as the planner counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

Clock = Callable[[], float]
"""Returns the present moment in seconds since 1970."""


def seconds_of(text: object) -> float | None:
    """Return a timestamp as seconds since 1970; None where it is absent or none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except ValueError:
        return None


def text_of(moment: float) -> str:
    """Return a moment as RFC 3339, to the second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def opens_in(now: float, start: str, minutes: int, days: Collection[str] | None, zone: str | None) -> float:
    """Return in how many seconds a weekly window is open; 0 where it is. Raises KeyError for an unknown zone.

    `start` is a time of day (`22:00`), `days` are `Mon` to `Sun` (None: all), `zone` an IANA time zone.
    """
    here = datetime.fromtimestamp(now, ZoneInfo(zone) if zone else UTC)
    hour, minute = (int(part) for part in start.split(":"))
    for ahead in range(-1, 8):
        begin = (here + timedelta(days=ahead)).replace(hour=hour, minute=minute, second=0, microsecond=0)
        if days and begin.strftime("%a") not in days:
            continue
        if here < begin + timedelta(minutes=minutes):
            return max(0.0, (begin - here).total_seconds())
    return 7 * 86_400.0


def steady_clock(wall: Clock = time.time, monotonic: Clock = time.monotonic) -> Clock:
    """Return a clock that starts at the wall's time and then only moves as the monotonic one does.

    A machine whose wall clock is set an hour ahead must not find every deadline passed at once.
    """
    start, began = wall(), monotonic()
    return lambda: start + monotonic() - began
