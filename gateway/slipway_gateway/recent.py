"""What the last minute was like, deployment by deployment: for people, who look at it for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from slipway_gateway.objects import Key
from slipway_gateway.record import Record

WINDOW_SECONDS: Final = 60.0
MAX_REMEMBERED: Final = 4096
"""Requests of one deployment; beyond it the window is shorter."""


class _Ended(NamedTuple):
    at: float
    answer_tokens: int
    first_byte: float | None
    failed: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """One deployment's last minute."""

    requests: int
    failed: int
    tokens_per_second: float
    """Of answers, by requests that ended."""
    first_byte: dict[str, float]
    """Seconds from a request's arrival to the first byte of its answer: p50 and p95."""


class Recent:
    """The requests that ended lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: dict[Key, deque[_Ended]] = {}

    def note(self, record: Record) -> None:
        """Remember a request that is over."""
        if record.deployment is None:
            return
        ended = self._ended.setdefault(record.deployment, deque(maxlen=MAX_REMEMBERED))
        ended.append(_Ended(self._clock(), record.tally.answer, record.first_byte, record.status >= 500))

    def summary(self, key: Key) -> Summary:
        """Return what the last minute was like for a deployment."""
        now, ended = self._clock(), self._ended.get(key, deque())
        while ended and ended[0].at < now - WINDOW_SECONDS:
            ended.popleft()
        if not ended:
            self._ended.pop(key, None)
            return Summary(0, 0, 0.0, {})
        full = len(ended) == MAX_REMEMBERED
        seconds = max(1.0, now - ended[0].at) if full else WINDOW_SECONDS
        waits = sorted(e.first_byte for e in ended if e.first_byte is not None)
        return Summary(
            requests=len(ended),
            failed=sum(e.failed for e in ended),
            tokens_per_second=sum(e.answer_tokens for e in ended) / seconds,
            first_byte={
                f"p{percent}": waits[min(len(waits) - 1, len(waits) * percent // 100)]
                for percent in ((50, 95) if waits else ())
            },
        )
