"""How many tokens a step may hold while streams run: as many as this machine computes in a fifth of a second.

A long prompt then delays the others by a step of bounded time, not of bounded tokens. The cost of a token is
learned from the steps themselves.
"""

from __future__ import annotations

STEP_SECONDS = 0.2
LEAST_CHUNK = 32
"""Prompt tokens that every step may take, however slow the machine: less would waste the weights' reading."""

_SMOOTHING = 0.2


class Pace:
    """A running estimate of the seconds that a token of a large step costs."""

    def __init__(self) -> None:
        self._seconds_per_token: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a step; small ones are bound by the weights' size and say nothing about tokens."""
        if tokens < LEAST_CHUNK:
            return
        cost = seconds / tokens
        known = self._seconds_per_token
        self._seconds_per_token = cost if known is None else known + _SMOOTHING * (cost - known)

    def budget(self, streams: int, most: int) -> int:
        """Return the tokens of the next step, `streams` of which are those of running streams."""
        if not streams or self._seconds_per_token is None:
            return most
        affordable = int(STEP_SECONDS / self._seconds_per_token)
        return min(most, max(affordable, streams + LEAST_CHUNK))
