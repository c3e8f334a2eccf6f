"""One replica as the simulator sees it: continuous batching in fluid form.

All running requests gain tokens at the same pace, one each a + b R seconds (R of them running); prefill
takes time of its own, at most half of it while others stream. A virtual clock counts the tokens that a
request running all along would have gained, so that a step costs what it ends, not what runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from slipway_operator.simulate.trace import Arrival

PREFILL_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Speed:
    """A replica's figures.

    A decode step takes `base` + `each` x running seconds; `prefill` is in prompt tokens a second.
    """

    base: float = 0.03
    each: float = 0.003
    prefill: float = 8000.0
    kv_tokens: int = 120_000
    max_num_seqs: int = 64

    def bears(self, tpot: float) -> float:
        """Return the requests in flight at which a token takes `tpot` seconds, prompts left aside."""
        return max(1.0, min(float(self.max_num_seqs), (tpot - self.base) / self.each))


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way; times in seconds, None until they happen."""

    arrival: Arrival
    left: float = 0.0
    first: float | None = None
    done: float | None = None
    replica: int | None = None

    @property
    def ttft(self) -> float:
        """Return the time to the first token; endless where none came."""
        return float("inf") if self.first is None else self.first - self.arrival.at

    @property
    def tpot(self) -> float:
        """Return the mean time of each further token."""
        if self.done is None or self.first is None:
            return float("inf")
        return (self.done - self.first) / max(1, self.arrival.answer - 1)


@dataclass(slots=True, eq=False)
class Replica:
    """A pod. It serves from `ready_at` on; `leaving` takes no new request and ends with its last one."""

    number: int
    ready_at: float
    speed: Speed
    waiting: deque[Job] = field(default_factory=deque)
    prefilling: deque[Job] = field(default_factory=deque)
    ending: list[tuple[float, int, Job]] = field(default_factory=list)
    clock: float = 0.0
    kv_used: int = 0
    leaving: bool = False
    finished: int = 0
    tokens: float = 0.0
    """Output tokens after the first of each request, as the engine's metrics count them."""
    stream_seconds: float = 0.0
    """Seconds between those tokens, over all requests that stream: prompts that hold them up included."""
    firsts: deque[tuple[float, float]] = field(default_factory=deque)
    """When first tokens came, and how long they took."""
    _order: int = 0

    @property
    def running(self) -> int:
        """Return the requests that hold KV blocks."""
        return len(self.prefilling) + len(self.ending)

    @property
    def requests(self) -> int:
        """Return the requests in the pod."""
        return self.running + len(self.waiting)

    @property
    def kv_share(self) -> float:
        """Return the used share of the KV cache."""
        return min(1.0, self.kv_used / self.speed.kv_tokens)

    def take(self, job: Job) -> None:
        """Queue a request."""
        job.replica = self.number
        self.waiting.append(job)

    def advance(self, now: float, seconds: float) -> None:
        """Let `seconds` pass, up to `now`."""
        self._admit()
        streaming = len(self.ending)
        spent = self._prefill(now, seconds)
        self.stream_seconds += spent * streaming
        self._decode(now, seconds - spent)

    def _admit(self) -> None:
        while self.waiting and self.running < self.speed.max_num_seqs:
            job = self.waiting[0]
            tokens = job.arrival.prompt + job.arrival.answer
            if self.kv_used and self.kv_used + tokens > self.speed.kv_tokens:
                return
            self.waiting.popleft()
            self.kv_used += tokens
            job.left = job.arrival.prompt
            self.prefilling.append(job)

    def _prefill(self, now: float, seconds: float) -> float:
        """Compute prompts in order; return the seconds that it took."""
        budget = seconds * (PREFILL_SHARE if self.ending else 1.0)
        spent = 0.0
        while self.prefilling and spent < budget:
            job = self.prefilling[0]
            took = min(job.left / self.speed.prefill, budget - spent)
            spent += took
            job.left -= took * self.speed.prefill
            if job.left > 1e-6:
                break
            self.prefilling.popleft()
            job.first = max(job.arrival.at, now - seconds + spent)  # it may have come within the tick
            self.firsts.append((job.first, job.ttft))
            self._order += 1
            heappush(self.ending, (self.clock + job.arrival.answer - 1, self._order, job))
        return spent

    def _decode(self, now: float, seconds: float) -> None:
        while self.ending and seconds > 0:
            pace = self.speed.base + self.speed.each * len(self.ending)
            needed = max(0.0, self.ending[0][0] - self.clock) * pace
            streaming = len(self.ending)
            if needed > seconds:
                self.clock += seconds / pace
                self._count(seconds, streaming, pace)
                return
            seconds -= needed
            self._count(needed, streaming, pace)
            self.clock, _, job = heappop(self.ending)
            job.done = max(job.first or 0.0, now - seconds)
            self.finished += 1
            self.kv_used -= job.arrival.prompt + job.arrival.answer

    def _count(self, seconds: float, streaming: int, pace: float) -> None:
        self.stream_seconds += seconds * streaming
        self.tokens += seconds / pace * streaming


def needed(trace: Sequence[Arrival], speed: Speed, bears: float, within: float = 600.0) -> int:
    """Return the replicas, filled to 80 %, that the traffic of the first `within` seconds needs (Little).

    Every policy begins with them, so that none is judged by a beginning that it did not choose.
    """
    seen = [arrival for arrival in trace if arrival.at < within]
    if not seen:
        return 1
    seconds = min(within, max(1.0, trace[-1].at))
    prompts = sum(one.prompt for one in seen) / speed.prefill / seconds
    answers = sum(one.answer for one in seen) / seconds
    filled = 0.8 * bears
    pace = speed.base + speed.each * filled
    count = 1
    while prompts >= count or prompts + answers * pace / (1 - prompts / count) > filled * count:
        count += 1
    return count
