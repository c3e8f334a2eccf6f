"""Moments: RFC 3339 as Kubernetes writes it, seconds since 1970 as the planner counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

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


def steady_clock(wall: Clock = time.time, monotonic: Clock = time.monotonic) -> Clock:
    """Return a clock that starts at the wall's time and then only moves as the monotonic one does.

    A machine whose wall clock is set an hour ahead must not find every deadline passed at once.
    """
    start, began = wall(), monotonic()
    return lambda: start + monotonic() - began
