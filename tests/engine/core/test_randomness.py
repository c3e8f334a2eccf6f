"""Counter-based noise: Gumbel in distribution, the same wherever it is drawn, different everywhere else."""

from __future__ import annotations

import math

import pytest
import torch

from slipway_engine.core.randomness import gumbel, keys, stream_of


def test_is_standard_gumbel() -> None:
    noise = gumbel(keys(range(40), [7] * 40), torch.arange(5000, dtype=torch.int32)[None])
    assert bool(noise.isfinite().all())
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.01)
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    below = [float((noise < at).float().mean()) for at in (-1.0, 0.0, 1.0, 3.0)]
    assert below == pytest.approx([math.exp(-math.exp(-at)) for at in (-1.0, 0.0, 1.0, 3.0)], abs=0.005)


def test_neighbouring_tokens_positions_and_streams_are_not_correlated() -> None:
    ids = torch.arange(20000, dtype=torch.int32)[None]
    rows = gumbel(keys([1, 1, 2], [0, 1, 0]), ids)
    shifted = torch.stack([rows[0, 1:], rows[0, :-1], rows[1, 1:], rows[2, 1:]])
    correlation = torch.corrcoef(shifted) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.03


def test_depends_on_nothing_but_stream_position_and_token() -> None:
    ids = torch.tensor([[5, 90, 3]], dtype=torch.int32)
    alone = gumbel(keys([11], [4]), ids)
    among = gumbel(keys([3, 11, 8], [4, 4, 1]), ids.expand(3, -1))
    assert torch.equal(alone[0], among[1])
    assert torch.equal(gumbel(keys([11], [4]), ids[:, 1:]), alone[:, 1:])


def test_streams_have_stable_names() -> None:
    assert stream_of("request", 7) == stream_of("request", 7)
    assert len({stream_of("request", seed) for seed in range(1000)}) == 1000
    assert stream_of("a", "bc") != stream_of("ab", "c")
