"""What the cache keeps is read back: to the bit, in a narrower type, or within half a step of a byte."""

from __future__ import annotations

import pytest
import torch

from slipway_engine.models import context
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.config import AttentionLayer
from slipway_engine.models.kv_cache import LayerCache, quantise, row_elements

LAYER = AttentionLayer(heads=6, kv_heads=3, key_dim=10, value_dim=6, scale=0.3)


def _cache(dtype: torch.dtype) -> LayerCache:
    return LayerCache(LAYER, torch.zeros(5, 4, row_elements(LAYER, dtype), dtype=dtype))


def _round_trip(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    cache, rows = _cache(dtype), torch.randn(7, LAYER.elements) * 3
    slots = torch.tensor([4, 5, 6, 7, 16, 17, 18])
    cache.write(slots, rows)
    keys, values = cache.read(torch.tensor([[1, 4]]), 8, torch.float32)
    back = torch.cat([keys.transpose(1, 2).flatten(2), values.transpose(1, 2).flatten(2)], dim=2)[0]
    return rows, back[:7]


@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 0), (torch.float16, 2**-11)])
def test_floats_come_back_as_their_type_holds_them(dtype: torch.dtype, step: float) -> None:
    rows, back = _round_trip(dtype)
    torch.testing.assert_close(back, rows, rtol=step, atol=0)


def test_bytes_come_back_within_half_a_step_of_their_own_head() -> None:
    rows, back = _round_trip(torch.int8)
    for start, stop, width in ((0, 30, 10), (30, 48, 6)):
        heads = rows[:, start:stop].view(7, 3, width)
        steps = heads.abs().amax(dim=-1, keepdim=True) / 127
        error = (heads - back[:, start:stop].view(7, 3, width)).abs()
        assert bool((error <= steps * 0.5001).all())
        assert float(error.max()) > 0


def test_a_row_of_zeros_stays_zeros() -> None:
    packed, scales = quantise(torch.zeros(2, 3))
    assert not packed.any()
    assert not scales.any()


def test_a_large_head_does_not_blur_its_neighbour() -> None:
    cache, rows = _cache(torch.int8), torch.full((1, LAYER.elements), 0.01)
    rows[:, :10] = 1000.0
    cache.write(torch.tensor([4]), rows)
    keys, _ = cache.read(torch.tensor([[1]]), 4, torch.float32)
    torch.testing.assert_close(keys[0, 1, 0], rows[0, 10:20], rtol=1e-5, atol=0)


class _Model:
    attention_layers = (LAYER,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_an_answer_does_not_depend_on_where_chunks_end(dtype: torch.dtype) -> None:
    """A prompt's own step reads its keys as the cache keeps them, so that a later hit reads the same."""
    query, kv = torch.randn(20, 6, 10), torch.randn(20, LAYER.elements)
    answers = []
    for sizes in ([20], [3, 9, 1, 1, 6]):
        memory = torch.zeros(9, 4, row_elements(LAYER, dtype), dtype=dtype)
        paged, at, parts = PagedAttention(_Model(), [memory]), 0, []
        for size in sizes:
            span = context.Span(at, size, [3, 1, 7, 2, 8])
            step = context.build([span], 4, torch.device("cpu"), torch.float32)
            parts.append(paged.answer(0, query[at : at + size], kv[at : at + size], step))
            at += size
        answers.append(torch.cat(parts))
    assert answers[0].shape == (20, 6 * LAYER.value_dim)
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-5)


def test_copied_blocks_hold_the_same() -> None:
    memory = torch.randn(6, 4, LAYER.elements)
    before = memory.clone()
    PagedAttention(_Model(), [memory]).copy_blocks([(1, 4), (2, 5)])
    assert torch.equal(memory[4:], before[1:3])
    assert torch.equal(memory[:4], before[:4])
