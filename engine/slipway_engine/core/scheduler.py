"""One rule: each step hands out a budget of tokens so that what is computed catches up with what is there.

A request in prefill owes its prompt, one in decode owes its last token, a preempted one owes everything
again; none of these is a phase. Who owes a single token goes first, so a long prompt costs the running
streams one chunk a step and no more. When blocks run out, the last in line gives its own back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from operator import attrgetter

from slipway_engine.core.request import QueueKey, Request
from slipway_engine.core.tables import Tables, held
from slipway_engine.errors import RequestError
from slipway_engine.kv.blocks import PADDING_BLOCK, BlockPool

PROMPT_ROWS = 32
"""Most logits rows of prompts in one step; the memory plan counts them."""


class Scheduled:
    """`count` tokens of `request` to compute in this step.

    It `samples` where the step catches up, so that its last row yields the next token. `rows` says how many
    of the last rows bring logits: the prompt's where they are owed, or that which samples.
    """

    __slots__ = ("count", "request", "rows", "samples")

    def __init__(self, request: Request, count: int) -> None:
        self.request = request
        self.count = count
        computed = request.computed + count
        self.samples = computed == len(request.tokens) and request.generates
        self.rows = int(self.samples)
        if request.scored < request.score_until:
            self.rows = max(0, min(count, computed - request.scored))


@dataclass(slots=True)
class Counters:
    """Lifetime counts. Prefix queries and hits are in tokens."""

    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0


@dataclass(slots=True)
class _Budget:
    """What a step has left to hand out."""

    tokens: int
    rows: int = PROMPT_ROWS

    def grant(self, request: Request) -> int:
        """Return how many tokens of the request the step may compute."""
        count = min(request.debt, self.tokens)
        if request.scored < request.score_until and request.pool is None:
            count = min(count, self.rows + max(0, request.scored - request.computed))
        return count

    def spend(self, request: Request, count: int) -> None:
        self.tokens -= count
        if request.scored < request.score_until and request.pool is None:
            self.rows -= Scheduled(request, count).rows


class Scheduler:
    """Waiting and running requests, and those that wait for others of their group (parked).

    Where several steps are on their way at once, those that a step computes are `flying` until it ends: they
    are in no other step, and keep their blocks.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_size: int,
        max_num_seqs: int,
        max_batch_tokens: int,
        max_waiting: int,
        prefix_caching: bool,
        windows: Sequence[int | None] = (None,),
    ) -> None:
        self.pool = pool
        self.max_num_seqs = max_num_seqs
        self.max_batch_tokens = max_batch_tokens
        self.max_waiting = max_waiting
        self.counters = Counters()
        self.running: list[Request] = []
        self.flying: set[Request] = set()
        self._tables = Tables(pool, block_size, prefix_caching=prefix_caching, windows=windows)
        self._waiting: dict[Request, None] = {}
        self._parked: dict[Request, None] = {}
        self._queue: list[tuple[QueueKey, Request]] = []

    @property
    def waiting(self) -> int:
        """Requests that hold no blocks yet, or none any more."""
        return len(self._waiting)

    @property
    def total(self) -> int:
        """Requests that are known."""
        return len(self._waiting) + len(self.running) + len(self._parked)

    @property
    def copies(self) -> Mapping[int, int]:
        """The blocks {target: source} to copy before the planned step is computed."""
        return self._tables.copies

    def blocks_for(self, tokens: int) -> int:
        """Return the most blocks that a sequence of so many computed tokens holds at once."""
        return self._tables.most(tokens, self.max_batch_tokens)

    def add(self, request: Request) -> None:
        """Queue a request, or refuse it where the queue is full."""
        if len(self._waiting) >= self.max_waiting:
            raise RequestError(
                f"{self.max_waiting} requests wait already; try again later.", code="queue_full", status=429
            )
        self._enqueue(request)

    def fork(self, parent: Request, child: Request) -> bool:
        """Let `child`, a twin of `parent`, run on the same blocks, or wait where there is no seat for it."""
        if parent.tables and len(self.running) < self.max_num_seqs:
            self._tables.share(parent, child)
            self.running.append(child)
            return True
        self._set_back(child)
        return False

    def park(self, request: Request) -> None:
        """Set a request aside that has nothing to compute; others may take its blocks."""
        self.running.remove(request)
        self._parked[request] = None

    def resume(self, request: Request) -> None:
        """Let a parked request go on."""
        del self._parked[request]
        if request.tables and len(self.running) < self.max_num_seqs:
            self.running.append(request)
        else:
            self._set_back(request)

    def remove(self, request: Request) -> None:
        """Forget a finished or aborted request and free its blocks.

        A step on its way may still write into them; whoever gets them is computed after it.
        """
        self.flying.discard(request)
        if request in self._waiting:
            del self._waiting[request]
        elif request in self._parked:
            del self._parked[request]
        else:
            self.running.remove(request)
        self._tables.release(request)
        if len(self._queue) > 2 * len(self._waiting) + 16:
            self._queue = [entry for entry in self._queue if entry[1] in self._waiting]
            heapify(self._queue)

    def schedule(self, budget: int | None = None, most: int | None = None) -> list[Scheduled]:
        """Decide what the next step computes; `budget` lowers `max_batch_tokens` for this step.

        It takes `most` requests at most, so that others are left for a step beside it.
        """
        left = _Budget(min(budget or self.max_batch_tokens, self.max_batch_tokens))
        plan: dict[Request, int] = {}
        self._tables.copies = {}
        preempted = self.counters.preemptions
        for request in self._in_turn():
            if left.tokens == 0 or len(plan) == most:
                break
            if request not in self._waiting:  # it may have been preempted since
                self._continue(request, left, plan)
        if self._waiting and self.counters.preemptions == preempted:
            self._admit(left, plan, most)
        return [Scheduled(request, count) for request, count in plan.items()]

    def launch(self, plan: Sequence[Scheduled]) -> None:
        """Take note that a step is on its way."""
        self.flying.update([row.request for row in plan])

    def land(self, plan: Sequence[Scheduled]) -> list[Scheduled]:
        """Return those of a step that ended who were not removed since."""
        if not self.flying.issuperset([row.request for row in plan]):
            plan = [row for row in plan if row.request in self.flying]
        self.flying.difference_update([row.request for row in plan])
        return list(plan)

    def advance(self, scheduled: Scheduled) -> None:
        """Record that a step's tokens are computed."""
        self._tables.advance(scheduled.request, scheduled.count)

    def check(self) -> None:
        """Assert the invariants between requests and blocks."""
        self.pool.check()
        references: dict[int, int] = {}
        for request in (*self.running, *self._parked):
            assert 0 <= request.computed <= len(request.tokens)
            for table in request.tables:
                assert len(table) >= self._tables.blocks_for(request.computed)
            for block in held(request):
                references[block] = references.get(block, 0) + 1
        assert references == self.pool.references(), "reference counts differ from the blocks that are held"
        assert len(self.running) <= self.max_num_seqs
        for request in self._waiting:
            assert not request.tables, "a waiting request holds blocks"
            assert not request.computed, "a waiting request counts computed tokens"

    def _in_turn(self) -> list[Request]:
        """Return the running requests in the order of the rule: single tokens first, then by their keys."""
        idle = [request for request in self.running if request not in self.flying]
        return sorted(idle, key=lambda request: (request.debt > 1, request.key))

    def _continue(self, request: Request, left: _Budget, plan: dict[Request, int]) -> None:
        """Plan more tokens of a running request, at the cost of who is last in line."""
        count = left.grant(request)
        if count == 0:
            return
        needed = self._tables.needed(request, count)
        while needed > self.pool.available:
            if not self._evict():
                victim = max([one for one in self.running if one not in self.flying], key=attrgetter("key"))
                if victim is request and self.flying:
                    return  # those that fly will give blocks back, or be victims
                left.tokens += plan.pop(victim, 0)
                self._preempt(victim)
                if victim is request:
                    return
            needed = self._tables.needed(request, count)
        if needed:
            self._tables.grow(request, count)
        left.spend(request, count)
        plan[request] = count

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.counters.preemptions += 1
        self._set_back(request)

    def _set_back(self, request: Request) -> None:
        """Let a request that has run wait for its turn again, without its blocks."""
        self._tables.release(request)
        request.preemptions += 1
        self._enqueue(request)

    def _evict(self) -> bool:
        """Take the blocks of the last parked request in line; it computes them again if it goes on."""
        holding = [request for request in self._parked if request.tables]
        if not holding:
            return False
        self._tables.release(max(holding, key=attrgetter("key")))
        self.counters.preemptions += 1
        return True

    def _admit(self, left: _Budget, plan: dict[Request, int], most: int | None) -> None:
        """Start waiting requests in order, while budget, seats and blocks for all their tokens last."""
        for request in self._front():
            if left.tokens == 0 or len(self.running) >= self.max_num_seqs or len(plan) == most:
                return
            hits = self._tables.hits(request)
            while not self._room(request, hits):
                if self.running or not self._evict():
                    return
            self._start(request, hits)
            count = left.grant(request)
            if count:
                self._tables.grow(request, count)
                left.spend(request, count)
                plan[request] = count

    def _room(self, request: Request, hits: list[list[int]]) -> bool:
        """Say whether there are blocks for all of a request, and one a table for each of those that run."""
        found = [block for table in hits for block in table if block != PADDING_BLOCK]
        needed = max(0, self.blocks_for(len(request.tokens)) - len(found))
        spare = len(self.running) * self._tables.groups
        return needed + self.pool.idle_among(found) + spare <= self.pool.available

    def _front(self) -> Iterator[Request]:
        """Yield the first waiting request, again and again while the caller takes it out of the queue."""
        while self._queue:
            request = self._queue[0][1]
            if request not in self._waiting:
                heappop(self._queue)
                continue
            yield request

    def _start(self, request: Request, hits: list[list[int]]) -> None:
        heappop(self._queue)
        del self._waiting[request]
        self.running.append(request)
        self._tables.start(request, hits)
        if not request.preemptions:
            request.cached_tokens = request.computed
            self.counters.prompt_tokens += request.prompt_length
            self.counters.prefix_queries += request.prompt_length
            self.counters.prefix_hits += request.computed

    def _enqueue(self, request: Request) -> None:
        self._waiting[request] = None
        heappush(self._queue, (request.key, request))
