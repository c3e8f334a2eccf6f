"""The core as one object: requests in, one `StepOutput` a step out.

It loads the model, plans the memory, and ties scheduler, runner and sampler together. Not thread-safe: one
loop owns it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core import admission
from slipway_engine.core.device import choose_backend, set_threads
from slipway_engine.core.machine import Machine
from slipway_engine.core.messages import CoreStats, FinishReason, NewRequest, Ready, RequestOutput, StepOutput
from slipway_engine.core.pace import Pace
from slipway_engine.core.randomness import stream_of
from slipway_engine.core.request import Request
from slipway_engine.core.sampler import Sampled
from slipway_engine.core.scheduler import Scheduled, Scheduler
from slipway_engine.kv.blocks import BlockPool
from slipway_engine.kv.hashing import root
from slipway_engine.kv.plan import Asked, MemoryPlan, plan
from slipway_engine.loading.checkpoint import open_checkpoint

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
        checkpoint = open_checkpoint(config.model)
        model = checkpoint.config
        self._backend = choose_backend(config, checkpoint, machine)
        phases.end("open")
        self.memory = self._plan(config, machine)
        log.info("%s; %d threads", self.memory.sentence(), threads)
        self._runner = self._backend.load(self.memory, config.block_size, _progress)
        phases.end("weights")
        self._config = config
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
        )
        self._requests: dict[str, Request] = {}
        self._aborted: list[RequestOutput] = []
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
        )

    def add_request(self, request: NewRequest) -> None:
        """Queue a request, or refuse it with `RequestError`."""
        admission.check_request(request, self._requests, self.ready)
        limit = admission.length_limit(request, self.ready)
        added = Request(
            id=request.request_id,
            tokens=list(request.prompt_token_ids),
            prompt_length=len(request.prompt_token_ids),
            limit=limit,
            sampling=request.sampling,
            stop_ids=self._stop_ids(request),
            key=(request.priority, request.arrival, next(self._order)),
            chain=[root(request.cache_salt, *self._salted)],
            stream=self._stream(request),
        )
        self._scheduler.add(added)
        self._requests[added.id] = added

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop these requests and free what they hold; unknown ids are ignored."""
        for request_id in request_ids:
            request = self._requests.pop(request_id, None)
            if request is not None:
                self._scheduler.remove(request)
                self._aborted.append(RequestOutput(request_id, finish_reason="abort"))

    def stop_choices(self, choices: Sequence[tuple[str, int]]) -> None:
        """Stop single choices of requests, without an output; unknown ones are ignored."""
        for request_id, _ in choices:
            self.abort([request_id])

    def has_work(self) -> bool:
        """Say whether `step` has anything to do or to report."""
        return bool(self._requests or self._aborted)

    def step(self) -> StepOutput:
        """Run one batch and return what it brought."""
        began = time.monotonic()
        outputs, self._aborted = self._aborted, []
        scheduled = self._scheduler.schedule(self._budget())
        if scheduled:
            outputs += self._compute(scheduled, began)
        else:
            assert not self._requests, "requests are there, but none could be scheduled"
        self._steps += 1
        self._step_seconds = time.monotonic() - began
        self._pace.observe(sum(row.count for row in scheduled), self._step_seconds)
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
        )

    def check(self) -> None:
        """Assert the invariants between requests, blocks and queue, at any time between steps."""
        self._scheduler.check()
        assert len(self._requests) == len(self._scheduler.running) + self._scheduler.waiting

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
        streams = sum(request.debt == 1 for request in self._scheduler.running)
        return self._pace.budget(streams, self._config.max_batch_tokens)

    def _stop_ids(self, request: NewRequest) -> frozenset[int]:
        own = frozenset(request.sampling.stop_token_ids)
        return own if request.sampling.ignore_eos else own | self._eos

    def _stream(self, request: NewRequest) -> int:
        if request.sampling.seed is not None:
            return stream_of("request", request.sampling.seed)
        return stream_of("engine", self._config.seed, request.request_id)

    @torch.inference_mode()
    def _compute(self, scheduled: Sequence[Scheduled], began: float) -> list[RequestOutput]:
        for row in scheduled:
            row.request.started = row.request.started or began
        sampling, logits = self._runner.run(scheduled)
        sampled = self._backend.sample(logits, [row.request for row in sampling]) if sampling else []
        for row in scheduled:
            self._scheduler.advance(row)
        now = time.monotonic()
        return [self._accept(row.request, one, now) for row, one in zip(sampling, sampled, strict=True)]

    def _accept(self, request: Request, sampled: Sampled, now: float) -> RequestOutput:
        """Append a sampled token and say whether it ends the request."""
        if sampled.token_id is None:
            self._forget(request)
            return RequestOutput(
                request.id,
                finish_reason="error",
                error="The model computed no finite logits; try dtype float32, or check the model's files.",
            )
        request.tokens.append(sampled.token_id)
        self._generated += 1
        output = RequestOutput(
            request.id,
            new_token_ids=(sampled.token_id,),
            logprobs=(sampled.logprob,) if sampled.logprob is not None else (),
        )
        if request.first_token is None:
            output = self._first(request, output, now)
        return self._finish(request, output)

    def _first(self, request: Request, output: RequestOutput, now: float) -> RequestOutput:
        request.first_token = now
        started = request.started or now
        return replace(
            output,
            cached_tokens=request.cached_tokens,
            queue_seconds=max(0.0, started - request.arrival),
            prefill_seconds=now - started,
        )

    def _finish(self, request: Request, output: RequestOutput) -> RequestOutput:
        token = request.tokens[-1]
        reason: FinishReason | None = None
        if token in request.stop_ids:
            reason = "stop"
        elif len(request.tokens) >= request.limit:
            reason = "length"
        if reason is None:
            return output
        self._forget(request)
        named = reason == "stop" and token in request.sampling.stop_token_ids
        return replace(output, finish_reason=reason, stop_reason=token if named else None)

    def _forget(self, request: Request) -> None:
        del self._requests[request.id]
        self._scheduler.remove(request)


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
