"""When another try may find a place in the queue: estimated from how fast requests end."""

from __future__ import annotations

from collections import deque
from math import ceil

SHORTEST, LONGEST = 1, 120
"""Seconds that a client is told to wait at least and at most."""

_REMEMBERED = 64


class Drain:
    """The rate at which requests have left lately."""

    def __init__(self) -> None:
        self._left: deque[float] = deque(maxlen=_REMEMBERED)

    def left(self, now: float) -> None:
        """A request has ended, at `now` monotonic seconds."""
        self._left.append(now)

    def retry_after(self, waiting: int, now: float) -> int:
        """Return the seconds in which a quarter of those who wait will have been taken in.

        A client that comes back then finds room even where others have come back too. Before any request has
        ended the rate is unknown, and the answer is a guess on the short side.
        """
        if not self._left:
            return SHORTEST
        rate = len(self._left) / max(now - self._left[0], 1e-3)
        return min(LONGEST, max(SHORTEST, ceil(max(1, waiting / 4) / rate)))
