"""Draws from a nucleus in the native library: all such rows of a step in one call, over its threads.

The rules and the noise are those of `core.sampler`, which stays the reference, and which draws the rows that
have no nucleus: torch sorts more of them than it must for one, and is as fast for the others (measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from slipway_engine.core import sampler
from slipway_engine.core.randomness import keys
from slipway_engine.core.request import Request
from slipway_engine.native import library

_DRAW = np.dtype(
    [
        ("row", np.int64), ("likeliest", np.int64), ("temperature", np.float32), ("min_p", np.float32),
        ("top_p", np.float32), ("top_k", np.int32), ("key0", np.int32), ("key1", np.int32),
    ]
)  # fmt: skip
"""slipway_draw of slipway.h."""


def sample(
    pool: library.Pool,
    logits: torch.Tensor,
    requests: Sequence[Request],
    largest: sampler.Largest | None = None,
) -> list[sampler.Sampled]:
    """Choose the next token of each row, as `core.sampler.sample` does."""

    def some(
        logits: torch.Tensor, rows: Sequence[int], likeliest: Sequence[int], requests: Sequence[Request]
    ) -> list[int]:
        tokens = [0] * len(rows)
        for how, nucleus in ((sampler.draw, False), (partial(draw, pool), True)):
            at = [place for place, one in enumerate(requests) if (one.sampling.top_p < 1) is nucleus]
            if at:
                own = [rows[place] for place in at], [likeliest[place] for place in at]
                drawn = how(logits, *own, [requests[place] for place in at])
                for place, token in zip(at, drawn, strict=True):
                    tokens[place] = token
        return tokens

    return sampler.sample(logits, requests, some, largest)


def draw(
    pool: library.Pool,
    logits: torch.Tensor,
    rows: Sequence[int],
    likeliest: Sequence[int],
    requests: Sequence[Request],
) -> list[int]:
    """Return a token for each of `rows` of `logits` [.., vocabulary]; `likeliest` are their largest."""
    draws = np.zeros(len(rows), dtype=_DRAW)
    draws["row"], draws["likeliest"] = rows, likeliest
    params = [request.sampling for request in requests]
    draws["temperature"] = [param.temperature for param in params]
    draws["min_p"] = [param.min_p for param in params]
    draws["top_p"] = [param.top_p for param in params]
    draws["top_k"] = [max(param.top_k, 0) for param in params]
    noise = keys([request.stream for request in requests], [request.output_length for request in requests])
    draws["key0"], draws["key1"] = noise.numpy().T
    tokens = np.empty(len(rows), dtype=np.int64)
    at = (logits.data_ptr(), *logits.shape, draws.ctypes.data, len(rows), tokens.ctypes.data)
    if library.load().slipway_sample(pool.handle, *at):
        raise library.error()
    return tokens.tolist()
