"""The core as one object: requests in, one `StepOutput` a step out.

It loads the model, plans the memory, and ties scheduler, runner and sampler together. Not thread-safe: one
loop owns it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count

import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core import admission, batch
from slipway_engine.core.backend import Answers, Spread
from slipway_engine.core.beams import Beams
from slipway_engine.core.device import choose_backend, set_threads
from slipway_engine.core.drain import Drain
from slipway_engine.core.flight import Flight
from slipway_engine.core.group import Births, Group, Ranked
from slipway_engine.core.machine import Machine
from slipway_engine.core.messages import CoreStats, NewRequest, Ready, RequestOutput, StepOutput
from slipway_engine.core.pace import Pace
from slipway_engine.core.randomness import stream_of
from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduled, Scheduler
from slipway_engine.errors import RequestError
from slipway_engine.kv.blocks import BlockPool
from slipway_engine.kv.hashing import root
from slipway_engine.kv.plan import Asked, MemoryPlan, plan
from slipway_engine.loading.checkpoint import open_model
from slipway_engine.models.pooling import Pool, Pooling

log = logging.getLogger(__name__)


class EngineCore:
    """Loads a model and generates; all requests share each step.

    `add_request` raises `RequestError` (prompt too long, could never fit the cache; queue full: status 429,
    code "queue_full"). `abort` frees blocks at once; the next step reports the finish reason "abort".
    """

    def __init__(self, config: EngineConfig, machine: Machine | None = None) -> None:
        """Load the model and plan the memory; raises `EngineError`."""
        machine = machine or Machine()
        admission.check_config(config)
        threads = set_threads(config, machine)
        phases = _Phases()
        checkpoint = open_model(config.model)
        model = checkpoint.config
        self._backend = choose_backend(config, checkpoint, machine)
        self._spread = self._backend if isinstance(self._backend, Spread) else None
        phases.end("open")
        self.memory = self._plan(config, machine)
        log.info("%s; %d threads", self.memory.sentence(), threads)
        self._runner = self._backend.load(self.memory, config.block_size, _progress)
        phases.end("weights")
        self._config = config
        self._unit_length = checkpoint.pooling is not None and checkpoint.pooling.normalised
        self._eos = frozenset(model.eos_token_ids)
        self._salted = (model.architecture, self._backend.dtype, config.block_size)
        self._pool = BlockPool(self.memory.num_blocks)
        self._scheduler = Scheduler(
            self._pool,
            block_size=config.block_size,
            max_num_seqs=config.max_num_seqs,
            max_batch_tokens=config.max_batch_tokens,
            max_waiting=config.max_waiting,
            prefix_caching=config.prefix_caching,
            windows=self.memory.kv_windows,
        )
        self._flight = Flight(self._runner)
        self._groups: dict[str, Group] = {}
        self._ended: list[RequestOutput] = []
        self._deadlines: list[tuple[float, str]] = []
        self._drain = Drain()
        self._order = count()
        self._pace = Pace()
        self._generated = self._steps = 0
        self._step_seconds = 0.0
        self.ready = Ready(
            max_model_len=self.memory.max_model_len,
            vocab_size=model.vocab_size,
            num_kv_blocks=self.memory.num_blocks,
            block_size=config.block_size,
            max_num_seqs=config.max_num_seqs,
            dtype=self._backend.dtype,
            device=self._backend.device,
            eos_token_ids=model.eos_token_ids,
            load_seconds=phases.seconds,
            pooling=checkpoint.pooling.mode if checkpoint.pooling is not None else None,
            memory=self.memory.parts(),
        )

    def add_request(self, request: NewRequest) -> None:
        """Queue a request, or refuse it with `RequestError`."""
        admission.check_request(request, self._groups, self.ready)
        limit = admission.length_limit(request, self.ready)
        admission.check_cache(limit, self._scheduler.blocks_for, self.ready)
        births = Births(self._streams(request), self._order)
        leader = Request(
            id=request.request_id,
            tokens=list(request.prompt_token_ids),
            prompt_length=len(request.prompt_token_ids),
            limit=limit,
            sampling=request.sampling,
            stop_ids=self._stop_ids(request),
            key=(request.priority, request.arrival, next(self._order)),
            chain=[root(request.cache_salt, *self._salted)],
            stream=births.stream(0),
            score_until=_owed(request),
            pool=None if request.pooling is None else Pool(Pooling(request.pooling, self._unit_length)),
        )
        self._enqueue(leader)
        self._groups[leader.id] = _kind_of(request)(request, leader, self._scheduler, births)
        if request.deadline is not None:
            heappush(self._deadlines, (request.deadline, leader.id))

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop these requests and free what they hold; unknown ids are ignored."""
        for request_id in request_ids:
            if request_id in self._groups:
                self._drop(request_id)
                self._ended.append(RequestOutput(request_id, finish_reason="abort"))

    def stop_choices(self, choices: Sequence[tuple[str, int]]) -> None:
        """Stop single choices of requests, without an output; unknown ones are ignored."""
        for request_id, index in choices:
            if request_id in self._groups:
                self._groups[request_id].stop(index)
                self._forget_ended([request_id])

    def close(self) -> None:
        """Let the processes go that compute with this one, where there are any."""
        if self._spread is not None:
            self._spread.close()

    def has_work(self) -> bool:
        """Say whether `step` has anything to do or to report."""
        return bool(self._groups or self._ended or self._flight)

    def step(self) -> StepOutput:
        """Run one batch and return what it brought."""
        began = time.monotonic()
        self._expire(began)
        outputs, self._ended = self._ended, []
        tokens = self._launch(began)
        if self._flight:
            outputs += self._land()
        else:
            assert not self._groups, "requests are there, but none could be scheduled"
        self._steps += 1
        self._step_seconds = time.monotonic() - began
        self._pace.observe(tokens, self._step_seconds)
        return StepOutput(tuple(outputs), self.stats())

    def stats(self) -> CoreStats:
        """Return the gauges and counters as of now."""
        counters = self._scheduler.counters
        return CoreStats(
            num_requests_running=len(self._scheduler.running),
            num_requests_waiting=self._scheduler.waiting,
            kv_blocks_used=self._pool.used,
            kv_blocks_total=self._pool.total,
            num_preemptions=counters.preemptions,
            prefix_cache_queries=counters.prefix_queries,
            prefix_cache_hits=counters.prefix_hits,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=self._generated,
            steps=self._steps,
            step_seconds=self._step_seconds,
            ranks=() if self._spread is None else self._spread.ranks(at_once=not self.has_work()),
        )

    def check(self) -> None:
        """Assert the invariants between requests, blocks and queue, at any time between steps."""
        self._scheduler.check()
        assert all(group.live for group in self._groups.values()), "a request has nothing left to run"
        assert sum(len(group.live) for group in self._groups.values()) == self._scheduler.total

    def check_idle(self) -> None:
        """Assert that nothing leaked; call it only when `has_work()` is false."""
        self.check()
        assert not self.has_work(), "the core is not idle"
        assert self._pool.used == 0, f"{self._pool.used} blocks leaked"

    def _plan(self, config: EngineConfig, machine: Machine) -> MemoryPlan:
        memory = self._backend.memory(machine)
        asked = Asked(
            config.max_model_len,
            config.max_num_seqs,
            config.max_batch_tokens,
            config.block_size,
            config.kv_cache_bytes,
            config.memory_percent,
        )
        available = memory.available * config.memory_percent // 100
        return plan(self._backend.needs(memory.baseline), asked, memory.limit, available)

    def _budget(self) -> int:
        streams = sum([request.debt == 1 for request in self._scheduler.running])
        return self._pace.budget(streams, self._config.max_batch_tokens)

    def _stop_ids(self, request: NewRequest) -> frozenset[int]:
        own = frozenset(request.sampling.stop_token_ids)
        return own if request.sampling.ignore_eos else own | self._eos

    def _streams(self, request: NewRequest) -> Callable[[int], int]:
        """Return the random stream of each of the request's sequences."""
        if request.sampling.seed is not None:
            return partial(stream_of, "request", request.sampling.seed)
        return partial(stream_of, "engine", self._config.seed, request.request_id)

    def _enqueue(self, leader: Request) -> None:
        try:
            self._scheduler.add(leader)
        except RequestError as error:
            error.retry_after = self._drain.retry_after(self._scheduler.waiting, time.monotonic())
            raise

    def _launch(self, began: float) -> int:
        """Send steps on their way, as many as there should be at once; return the tokens of them all."""
        tokens, runnable = 0, self._scheduler.total
        while self._flight.has_room:
            scheduled = self._scheduler.schedule(self._budget(), self._flight.share(runnable))
            if not scheduled:
                break
            for row in scheduled:
                row.request.started = row.request.started or began
                tokens += row.count
            if self._scheduler.copies:
                self._runner.copy_blocks(self._scheduler.copies)
            if self._flight.several:
                self._scheduler.launch(scheduled)
            self._flight.launch(scheduled)
        return tokens

    def _land(self) -> list[RequestOutput]:
        """Take in the oldest step."""
        landed, answers = self._flight.land()
        scheduled = self._scheduler.land(landed) if self._flight.several else landed
        wanting, logits = answers if len(scheduled) == len(landed) else _without(answers, scheduled)
        step = batch.sort(wanting, logits, self._groups)
        for row in scheduled:
            self._scheduler.advance(row)
        batch.spread(step, self._groups)
        self._generated += len(step.sampled.places) + len(step.searched.places)
        outputs = batch.answer(step, logits, self._groups, self._backend, time.monotonic())
        for row in scheduled:
            if not row.request.generates and not row.request.debt:
                outputs.append(self._groups[row.request.id].conclude())
        self._forget_ended({output.request_id for output in outputs})
        return outputs

    def _expire(self, now: float) -> None:
        """End the requests whose deadline has passed."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, request_id = heappop(self._deadlines)
            group = self._groups.get(request_id)
            if group is not None and group.asked.deadline == deadline:
                self._drop(request_id)
                self._ended.append(_too_late(group, now))

    def _drop(self, request_id: str) -> None:
        self._groups[request_id].release()
        self._forget_ended([request_id])

    def _forget_ended(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if self._groups[request_id].over:
                del self._groups[request_id]
                self._drain.left(time.monotonic())


def _without(answers: Answers, scheduled: Sequence[Scheduled]) -> Answers:
    """Return the answers to those that are still there."""
    wanting, logits = answers
    left, sizes = set(scheduled), [row.rows for row in wanting]
    parts = zip(wanting, torch.split(logits, sizes), strict=True)
    kept = [(row, part) for row, part in parts if row in left]
    return [row for row, _ in kept], torch.cat([logits[:0], *(part for _, part in kept)])


def _owed(request: NewRequest) -> int:
    """Return how many of the prompt's positions owe more than keys and values."""
    length = len(request.prompt_token_ids)
    if request.pooling is not None:
        return length
    return 0 if request.prompt_logprobs is None else length - 1


def _kind_of(request: NewRequest) -> type[Group]:
    if request.sampling.beam_width is not None:
        return Beams
    return Ranked if request.sampling.ranked else Group


def _too_late(group: Group, now: float) -> RequestOutput:
    waited = f"{now - group.asked.arrival:.1f} s"
    return RequestOutput(
        group.asked.request_id,
        finish_reason="error",
        error=f"The request's deadline passed after {waited}; allow more time, or ask for fewer tokens.",
        error_code="deadline_exceeded",
        error_status=504,
    )


class _Phases:
    """Measures the phases of start-up, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = now - self._began
        self._began = now


def _progress(done: int, total: int) -> None:
    if done == total or done % max(1, total // 10) == 0:
        log.info("loaded %d of %d layers", done, total)
