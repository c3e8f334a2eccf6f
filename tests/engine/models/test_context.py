"""How a step is cut into groups: padding is traded for dispatches, and the gathered workspace is bounded."""

from __future__ import annotations

import torch

from slipway_engine.models import context
from slipway_engine.models.context import GROUP_TOKENS, Span


def _build(spans: list[Span]) -> context.AttentionContext:
    return context.build(spans, 16, torch.device("cpu"), torch.float32)


def test_equal_lengths_share_a_group() -> None:
    step = _build([Span(99, 1, list(range(1, 8)))] * 8)
    assert [group.rows for group in step.decodes] == [slice(0, 8)]


def test_a_long_row_does_not_pad_the_short_ones() -> None:
    long, short = list(range(1, 200)), [1]
    step = _build([Span(3000, 1, long), *[Span(9, 1, short)] * 6])
    assert [group.rows for group in step.decodes] == [slice(0, 1), slice(1, 7)]


def test_no_group_gathers_more_than_the_bound() -> None:
    blocks = list(range(1, 1001))
    step = _build([Span(15999, 1, blocks)] * 9)
    for group in step.decodes:
        assert group.blocks.shape[0] * group.width <= GROUP_TOKENS
    assert sum(group.blocks.shape[0] for group in step.decodes) == 9


def test_slots_and_positions_follow_the_block_table() -> None:
    step = _build([Span(17, 1, [5, 9]), Span(14, 4, [2, 7])])
    assert step.slots.tolist() == [9 * 16 + 1, 2 * 16 + 14, 2 * 16 + 15, 7 * 16, 7 * 16 + 1]
    assert step.positions.tolist() == [17, 14, 15, 16, 17]
    assert not step.chunks[0].fresh


def test_a_query_sees_keys_up_to_its_own_within_the_window() -> None:
    step = _build([Span(3, 1, [1])])
    visible = step.decodes[0].mask(None)[0, 0, 0] == 0
    assert visible.tolist() == [True] * 4 + [False] * 12
    visible = step.decodes[0].mask(2)[0, 0, 0] == 0
    assert visible.tolist() == [False, False, True, True] + [False] * 12
