"""The logits of a text, as the engine computes them when it serves: its backend, its step, its cache.

Each token of a chunk goes into the step as a sequence of its own, as in decoding; it shares its blocks with
the tokens before it. So what is scored has read its keys and values from the cache, in the cache's type.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core.device import choose_backend, set_threads
from slipway_engine.core.machine import Machine
from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduled
from slipway_engine.kv.plan import Asked, plan
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.sampling import SamplingParams

log = logging.getLogger(__name__)

CHUNK = 64
"""Tokens in a step."""


def reference_of(config: EngineConfig) -> EngineConfig:
    """Return the yardstick for `config`: the checkpoint's values unpacked, all in float32, by torch."""
    return replace(
        config, cpu_backend="torch", quantization="none", dtype="float32", kv_cache_dtype="float32"
    )


class Scorer:
    """A loaded model that answers with the logits of each position of a text."""

    def __init__(self, config: EngineConfig, context: int, machine: Machine | None = None) -> None:
        """Load the model, with a cache of `context` tokens; raises `EngineError`."""
        machine = machine or Machine()
        threads = set_threads(config, machine)
        config = replace(config, max_num_seqs=CHUNK, max_batch_tokens=CHUNK)
        checkpoint = open_checkpoint(config.model)
        self.vocab_size = checkpoint.config.vocab_size
        backend = choose_backend(config, checkpoint, machine)
        memory = backend.memory(machine)
        needs = backend.needs(memory.baseline)
        size = config.block_size
        blocks = -(-context // size)
        groups = len(needs.kv_windows)
        cache = (blocks + 1) * size * needs.kv_bytes_per_token
        asked = Asked(context, CHUNK, CHUNK, size, cache, config.memory_percent)
        planned = plan(needs, asked, memory.limit, memory.available * config.memory_percent // 100)
        self._runner = backend.load(planned, size, _nothing)
        self._tables = [list(range(1 + group * blocks, 1 + (group + 1) * blocks)) for group in range(groups)]
        self._context = context
        self.mode = (
            f"{type(backend).__name__.removesuffix('Backend').lower()} on {backend.device}, products in "
            f"{backend.dtype}, quantization {config.quantization}, KV cache {config.kv_cache_dtype}"
        )
        log.info("scoring: %s; %d threads", self.mode, threads)

    @torch.no_grad()
    def logits(self, window: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield float32 rows [positions, vocabulary] of all positions of a window, a chunk at a time."""
        assert len(window) <= self._context
        for start in range(0, len(window), CHUNK):
            end = min(start + CHUNK, len(window))
            order, rows = self._runner.run([self._at(window, position) for position in range(start, end)])
            yield rows[torch.tensor([row.request.computed for row in order]).argsort()]

    def _at(self, window: Sequence[int], position: int) -> Scheduled:
        request = Request(
            id=str(position),
            tokens=list(window[: position + 1]),
            prompt_length=position + 1,
            limit=position + 2,
            sampling=SamplingParams(),
            stop_ids=frozenset(),
            key=(0, 0.0, position),
            chain=[],
            stream=0,
            computed=position,
            tables=self._tables,
            slid=[0] * len(self._tables),
        )
        return Scheduled(request, 1)


def _nothing(done: int, total: int) -> None:
    """Loading one model of two is not worth a line each."""
