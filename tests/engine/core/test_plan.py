"""The memory plan: the sum never passes the limit, and a refusal says the sum and the way out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipway_engine.errors import DoesNotFit
from slipway_engine.kv.plan import MIB, Asked, Needs, plan

NEEDS = Needs(
    weights=600 * MIB,
    load_peak=100 * MIB,
    baseline=300 * MIB,
    kv_bytes_per_token=46080,
    kv_bytes_per_token_layer=1536,
    activation_bytes_per_token=40000,
    vocab_size=49152,
    rotary_bytes_per_token=256,
    gather_tokens=32768,
    max_position=8192,
    mask_itemsize=4,
)
ASKED = Asked(None, 64, 512, 16, None, 90)
LOTS = 1 << 40


@pytest.mark.parametrize("limit", [2, 3, 4, 8, 64])
def test_the_parts_never_pass_what_is_usable(limit: int) -> None:
    made = plan(NEEDS, ASKED, limit << 30, LOTS)
    assert made.usable == (limit << 30) * 90 // 100
    assert made.baseline + made.weights + made.workspace + made.kv_cache <= made.usable
    assert made.num_blocks * 16 >= made.max_model_len


def test_a_model_too_long_for_the_memory_is_shortened() -> None:
    made = plan(NEEDS, ASKED, 1700 * MIB, LOTS)
    assert 16 <= made.max_model_len < 8192
    assert made.num_blocks * 16 >= made.max_model_len


def test_a_length_that_was_asked_for_is_never_shortened() -> None:
    with pytest.raises(DoesNotFit) as refused:
        plan(NEEDS, replace(ASKED, max_model_len=8192), 1700 * MIB, LOTS)
    sentence = str(refused.value)
    assert "600 MiB weights" in sentence
    assert "8192 tokens" in sentence
    assert "--max-model-len" in sentence


def test_the_limit_that_a_refusal_names_is_enough() -> None:
    asked = replace(ASKED, max_model_len=8192)
    with pytest.raises(DoesNotFit) as refused:
        plan(NEEDS, asked, 1700 * MIB, LOTS)
    named = int(str(refused.value).rsplit("at least ", 1)[1].split()[0])
    assert plan(NEEDS, asked, named * MIB, LOTS).max_model_len == 8192


def test_a_context_far_beyond_the_memory_is_shortened_too() -> None:
    made = plan(replace(NEEDS, max_position=1 << 24), ASKED, 2 << 30, LOTS)
    assert 1000 < made.max_model_len <= made.num_blocks * 16


def test_weights_that_cannot_fit_say_so() -> None:
    with pytest.raises(DoesNotFit, match="raise the memory limit or serve a smaller model"):
        plan(NEEDS, ASKED, 900 * MIB, LOTS)


def test_a_cache_of_a_size_asked_for() -> None:
    made = plan(NEEDS, replace(ASKED, kv_cache_bytes=10 * MIB), 4 << 30, LOTS)
    assert made.kv_cache <= 10 * MIB
    assert made.num_blocks == 10 * MIB // (46080 * 16) - 1
    assert made.max_model_len == 8192


def test_memory_that_others_use_is_not_planned_with() -> None:
    assert plan(NEEDS, ASKED, 64 << 30, 2 << 30).usable == NEEDS.baseline + (2 << 30)
