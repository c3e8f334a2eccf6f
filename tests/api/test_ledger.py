"""The memory ledger: its parts add up, it refuses with its arithmetic, and more memory never fits less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_api.ledger import MIB, OTHER_PROCESS, Asked, Needs, NotEnough, divide, workspace

NEEDS = Needs(
    weights=500 * MIB,
    load_peak=50 * MIB,
    baseline=200 * MIB,
    kv_bytes_per_token=64 << 10,
    kv_bytes_per_token_layer=2048,
    activation_bytes_per_token=40_000,
    vocab_size=50_000,
    rotary_bytes_per_token=256,
    gather_tokens=0,
    max_position=8192,
    mask_itemsize=0,
)
ASKED = Asked(
    max_model_len=None,
    max_num_seqs=16,
    max_batch_tokens=512,
    block_size=16,
    kv_cache_bytes=None,
    memory_percent=90,
)


def test_the_parts_add_up_to_what_is_usable():
    ledger = divide(NEEDS, ASKED, 4096 * MIB, 4096 * MIB)
    assert ledger.max_model_len == 8192
    parts = ledger.baseline + ledger.weights + ledger.workspace + ledger.kv_cache
    assert 0 <= ledger.usable - parts < NEEDS.kv_bytes_per_token * ASKED.block_size
    assert ledger.max_tokens == ledger.num_blocks * 16
    assert ledger.max_sequences(64) == ledger.max_tokens // 8192


def test_a_shorter_length_is_found_where_the_models_own_does_not_fit():
    ledger = divide(NEEDS, ASKED, 1600 * MIB, 4096 * MIB)
    assert 16 <= ledger.max_model_len < 8192
    with pytest.raises(NotEnough):
        divide(NEEDS, replace(ASKED, max_model_len=ledger.max_model_len + 16), 1600 * MIB, 4096 * MIB)


def test_the_refusal_holds_the_arithmetic_and_the_least_that_would_do():
    with pytest.raises(NotEnough) as refusal:
        divide(NEEDS, replace(ASKED, max_model_len=8192), 1024 * MIB, 4096 * MIB)
    error = refusal.value
    assert "500 MiB weights" in str(error)
    assert error.total == sum(error.parts.values())
    assert divide(NEEDS, replace(ASKED, max_model_len=8192), error.required, error.required)


def test_weights_alone_too_large_is_hopeless():
    with pytest.raises(NotEnough) as refusal:
        divide(NEEDS, ASKED, 800 * MIB, 4096 * MIB)
    assert refusal.value.hopeless


@given(
    limit=st.integers(1, 1 << 16),
    more=st.integers(0, 1 << 12),
    length=st.none() | st.integers(1, 20_000),
    sequences=st.integers(1, 512),
    layer=st.sampled_from([0, 4096]),
)
def test_more_memory_never_fits_less(limit, more, length, sequences, layer):
    needs = replace(NEEDS, kv_bytes_per_token_layer=layer)
    asked = replace(ASKED, max_model_len=length, max_num_seqs=sequences)
    try:
        small = divide(needs, asked, limit * MIB, 1 << 50)
    except NotEnough:
        return
    large = divide(needs, asked, (limit + more) * MIB, 1 << 50)
    assert large.max_model_len >= small.max_model_len
    if large.max_model_len == small.max_model_len:
        assert large.num_blocks >= small.num_blocks


def test_loading_may_be_the_peak():
    assert workspace(replace(NEEDS, load_peak=1 << 40), ASKED, 100) == 1 << 40
    assert divide(NEEDS, ASKED, 4096 * MIB, 4096 * MIB).baseline == 200 * MIB + OTHER_PROCESS
