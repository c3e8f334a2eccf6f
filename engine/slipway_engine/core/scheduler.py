"""One rule: each step hands out a budget of tokens so that what is computed catches up with what is there.

A request in prefill owes its prompt, one in decode owes its last token, a preempted one owes everything
again; none of these is a phase. Who owes a single token goes first, so a long prompt costs the running
streams one chunk a step and no more. When blocks run out, the last in line gives its own back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from operator import attrgetter

from slipway_engine.core.request import QueueKey, Request
from slipway_engine.errors import RequestError
from slipway_engine.kv.blocks import BlockPool


@dataclass(frozen=True, slots=True)
class Scheduled:
    """`count` tokens of `request` to compute in this step."""

    request: Request
    count: int

    @property
    def samples(self) -> bool:
        """True where the step catches up, so that its last row yields the next token."""
        return self.count == self.request.debt


@dataclass(slots=True)
class Counters:
    """Lifetime counts. Prefix queries and hits are in tokens."""

    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0


class Scheduler:
    """Waiting and running requests, and the blocks between them."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_size: int,
        max_num_seqs: int,
        max_batch_tokens: int,
        max_waiting: int,
        prefix_caching: bool,
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_batch_tokens = max_batch_tokens
        self.max_waiting = max_waiting
        self.prefix_caching = prefix_caching
        self.counters = Counters()
        self.running: list[Request] = []
        self._waiting: dict[str, Request] = {}
        self._queue: list[tuple[QueueKey, Request]] = []

    @property
    def waiting(self) -> int:
        """Requests that hold no blocks yet, or none any more."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a request, or refuse it where the queue is full."""
        if len(self._waiting) >= self.max_waiting:
            raise RequestError(
                f"{self.max_waiting} requests wait already; try again later.", code="queue_full", status=429
            )
        self._enqueue(request)

    def remove(self, request: Request) -> None:
        """Forget a finished or aborted request and free its blocks."""
        if self._waiting.pop(request.id, None) is None:
            self.running.remove(request)
        self._release(request)
        if len(self._queue) > 2 * len(self._waiting) + 16:
            self._queue = [entry for entry in self._queue if self._waiting.get(entry[1].id) is entry[1]]
            heapify(self._queue)

    def schedule(self, budget: int | None = None) -> list[Scheduled]:
        """Decide what the next step computes; `budget` lowers `max_batch_tokens` for this step."""
        left = min(budget or self.max_batch_tokens, self.max_batch_tokens)
        plan: dict[Request, int] = {}
        preempted = self.counters.preemptions
        for request in self._in_turn():
            if left == 0:
                break
            if request.id not in self._waiting:  # it may have been preempted since
                left -= self._continue(request, min(request.debt, left), plan)
        if self.counters.preemptions == preempted:
            self._admit(left, plan)
        return [Scheduled(request, count) for request, count in plan.items()]

    def advance(self, scheduled: Scheduled) -> None:
        """Record that a step's tokens are computed, and name the blocks that became full."""
        request = scheduled.request
        full = request.computed // self.block_size
        request.computed += scheduled.count
        if self.prefix_caching and request.computed // self.block_size > full:
            digests = request.digests(self.block_size)
            for index in range(full, request.computed // self.block_size):
                self.pool.remember(request.blocks[index], digests[index])

    def check(self) -> None:
        """Assert the invariants between requests and blocks."""
        self.pool.check()
        held: dict[int, int] = {}
        for request in self.running:
            assert 0 <= request.computed <= len(request.tokens)
            assert len(request.blocks) >= self._blocks_for(request.computed)
            for block in request.blocks:
                held[block] = held.get(block, 0) + 1
        assert held == self.pool.references(), "reference counts differ from the blocks that requests hold"
        assert len(self.running) <= self.max_num_seqs
        for request in self._waiting.values():
            assert not request.blocks, "a waiting request holds blocks"
            assert not request.computed, "a waiting request counts computed tokens"

    def _in_turn(self) -> list[Request]:
        """Return the running requests in the order of the rule: single tokens first, then by their keys."""
        return sorted(self.running, key=lambda request: (request.debt > 1, request.key))

    def _continue(self, request: Request, count: int, plan: dict[Request, int]) -> int:
        """Plan `count` more tokens at the cost of who is last in line; return what the budget loses."""
        spent, needed = 0, self._blocks_for(request.computed + count) - len(request.blocks)
        while needed > self.pool.available:
            victim = max(self.running, key=attrgetter("key"))
            spent -= plan.pop(victim, 0)
            self._preempt(victim)
            if victim is request:
                return spent
        request.blocks += self.pool.allocate(needed)
        plan[request] = count
        return spent + count

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        request.preemptions += 1
        self.counters.preemptions += 1
        self._enqueue(request)

    def _admit(self, left: int, plan: dict[Request, int]) -> None:
        """Start waiting requests in order, while budget, seats and blocks for all their tokens last."""
        for request in self._front():
            if left == 0 or len(self.running) >= self.max_num_seqs:
                return
            hits = self._cached_blocks(request)
            needed = self._blocks_for(len(request.tokens)) - len(hits)
            if needed + self.pool.idle_among(hits) + len(self.running) > self.pool.available:
                return  # each running request may ask for one more block soon
            self._start(request, hits)
            count = min(request.debt, left)
            request.blocks += self.pool.allocate(
                self._blocks_for(request.computed + count) - len(request.blocks)
            )
            plan[request] = count
            left -= count

    def _front(self) -> Iterator[Request]:
        """Yield the first waiting request, again and again while the caller takes it out of the queue."""
        while self._queue:
            request = self._queue[0][1]
            if self._waiting.get(request.id) is not request:
                heappop(self._queue)
                continue
            yield request

    def _start(self, request: Request, hits: list[int]) -> None:
        heappop(self._queue)
        del self._waiting[request.id]
        self.running.append(request)
        self.pool.share(hits)
        request.blocks = list(hits)
        request.computed = len(hits) * self.block_size
        if not request.preemptions:
            request.cached_tokens = request.computed
            self.counters.prompt_tokens += request.prompt_length
            self.counters.prefix_queries += request.prompt_length
            self.counters.prefix_hits += request.computed

    def _cached_blocks(self, request: Request) -> list[int]:
        """Return the cached blocks that the request may start from; its last token is always computed."""
        if not self.prefix_caching:
            return []
        usable = (len(request.tokens) - 1) // self.block_size
        return self.pool.find(request.digests(self.block_size)[:usable])

    def _enqueue(self, request: Request) -> None:
        self._waiting[request.id] = request
        heappush(self._queue, (request.key, request))

    def _release(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
        request.computed = 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)
