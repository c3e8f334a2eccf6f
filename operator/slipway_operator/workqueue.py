"""A queue of keys: one worker a key at a time, news during the work queues it once more, failures back off.

A key is ready (wants work), processing (a worker has it), both (wants work again as soon as it is done), or
delayed. Adding is idempotent, so a thousand events about one object cost one reconcile. What a person has
just written goes first: among a thousand objects whose pods move, a new one does not wait for its turn.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")

BASE_DELAY = 0.5
MAX_DELAY = 120.0
# When everything fails at once, so many attempts a second are made again, after a first burst.
RETRIES_PER_SECOND = 20.0
RETRY_BURST = 100
# Of so many keys one is handed out that need not go first, so that none waits for ever.
FAIR = 4


class WorkQueue(Generic[K]):
    """The queue. It belongs to one event loop; nothing in it is thread-safe."""

    def __init__(
        self,
        *,
        base_delay: float = BASE_DELAY,
        max_delay: float = MAX_DELAY,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._base, self._max = base_delay, max_delay
        self._clock, self._jitter = clock, jitter
        # Keys to hand out, with one token each; a key that was put forward is in both, once in vain.
        self._first, self._rest = deque[K](), deque[K]()
        self._tokens = asyncio.Semaphore(0)
        self._turn = 0
        self._ready: dict[K, bool] = {}
        """What wants work, and whether it goes first."""
        self._processing: set[K] = set()
        self._delayed: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}
        self._next_retry = clock()
        self._closed = False
        self._last_progress = clock()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def delayed(self) -> int:
        """Return how many keys wait for their time."""
        return len(self._delayed)

    @property
    def processing(self) -> int:
        """Return how many keys are being worked on."""
        return len(self._processing)

    def add(self, key: K, *, first: bool = False) -> None:
        """Want work on `key` as soon as possible, `first` before all that were added without it."""
        if self._closed:
            return
        self._cancel_delay(key)
        planned = self._ready.get(key)
        if planned is not None and planned >= first:
            return
        if not self._ready and not self._processing:
            self._last_progress = self._clock()
        self._ready[key] = first
        if key not in self._processing:
            self._offer(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Want work on `key` after `seconds`, or earlier where something earlier is already planned."""
        if self._closed or key in self._ready:
            return
        due = self._clock() + seconds
        planned = self._delayed.get(key)
        if planned is not None and planned[0] <= due:
            return
        self._cancel_delay(key)
        handle = asyncio.get_running_loop().call_later(seconds, self._due, key)
        self._delayed[key] = (due, handle)

    def add_failed(self, key: K, *, at_least: float = 0.0) -> float:
        """Want work on `key` after a delay that doubles with every failure in a row; return the delay.

        Half of the delay is random, so that keys which failed together do not come back together, and all
        keys share a rate: an API server that comes back is not met by thousands of them.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        full: float = min(self._max, self._base * 2 ** min(failures, 32))
        delay = max(at_least, full * (0.5 + 0.5 * self._jitter()), self._turn_to_retry())
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The last attempt on `key` succeeded: the next failure starts from the shortest delay."""
        self._failures.pop(key, None)

    async def get(self) -> K | None:
        """Return the next key, waiting for one; None once the queue is closed. Pair with `done`."""
        while True:
            await self._tokens.acquire()
            if self._closed:
                self._tokens.release()  # for the next worker that asks
                return None
            key = self._next()
            if key in self._ready and key not in self._processing:
                del self._ready[key]
                self._processing.add(key)
                return key

    def done(self, key: K) -> None:
        """The work on `key` ended, well or badly."""
        self._processing.discard(key)
        self._last_progress = self._clock()
        if key in self._ready and not self._closed:
            self._offer(key)

    def close(self) -> None:
        """Hand out nothing more and wake up all who wait."""
        self._closed = True
        for _, handle in self._delayed.values():
            handle.cancel()
        self._delayed.clear()
        self._ready.clear()
        self._tokens.release()

    def stuck_for(self) -> float:
        """Return for how many seconds work was there and none was finished; 0 where there is none."""
        if not self._ready and not self._processing:
            return 0.0
        return self._clock() - self._last_progress

    def _offer(self, key: K) -> None:
        (self._first if self._ready[key] else self._rest).append(key)
        self._tokens.release()

    def _next(self) -> K:
        self._turn = (self._turn + 1) % FAIR
        first = self._first and (self._turn or not self._rest)
        return self._first.popleft() if first else self._rest.popleft()

    def _turn_to_retry(self) -> float:
        """Return in how many seconds the shared rate has room for one more attempt, and take it."""
        now = self._clock()
        earliest = now - RETRY_BURST / RETRIES_PER_SECOND
        self._next_retry = max(self._next_retry, earliest) + 1 / RETRIES_PER_SECOND
        return max(0.0, self._next_retry - now)

    def _due(self, key: K) -> None:
        self._delayed.pop(key, None)
        self.add(key)

    def _cancel_delay(self, key: K) -> None:
        planned = self._delayed.pop(key, None)
        if planned is not None:
            planned[1].cancel()
