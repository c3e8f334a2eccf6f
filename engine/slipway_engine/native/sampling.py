"""Draws in the native library: all rows of a step in one call, over its threads.

The rules and the noise are those of `core.sampler`, which stays the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int64
from functools import partial

import torch

from slipway_engine.core import sampler
from slipway_engine.core.request import Request
from slipway_engine.native import library
from slipway_engine.native.library import Draw


def sample(
    pool: library.Pool,
    isa: str,
    logits: torch.Tensor,
    requests: Sequence[Request],
    largest: sampler.Largest | None = None,
) -> list[sampler.Sampled]:
    """Choose the next token of each row, as `core.sampler.sample` does."""
    return sampler.sample(logits, requests, partial(draw, pool, isa), largest)


def draw(
    pool: library.Pool,
    isa: str,
    logits: torch.Tensor,
    rows: Sequence[int],
    likeliest: Sequence[int],
    requests: Sequence[Request],
) -> list[int]:
    """Return a token for each of `rows` of `logits` [.., vocabulary]; `likeliest` are their largest."""
    draws = (Draw * len(rows))()
    for one, row, most, request in zip(draws, rows, likeliest, requests, strict=True):
        asked = request.sampling
        one.row, one.likeliest, one.temperature = row, most, asked.temperature
        one.min_p, one.top_p, one.top_k = asked.min_p, asked.top_p, max(asked.top_k, 0)
        one.stream, one.position = request.stream, request.output_length
    tokens = (c_int64 * len(rows))()
    at = (logits.data_ptr(), *logits.shape, draws, len(rows), tokens)
    if library.load().slipway_sample(pool.handle, isa.encode(), *at):
        raise library.error()
    return list(tokens)
