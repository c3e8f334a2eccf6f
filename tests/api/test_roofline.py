"""Expected needs and times: in line with what is known of machines, and never better on a worse one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_api.catalogue import CATALOGUE
from slipway_api.device import device_of
from slipway_api.facts import TensorEntry, from_gguf, from_hugging_face
from slipway_api.ledger import MIB
from slipway_api.needs import Shape, device_weights, kv_bytes, needs_of, weight_bytes
from slipway_api.roofline import expect

LLAMA = from_hugging_face(
    {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }
)
L4, H100 = (device_of(CATALOGUE[name]) for name in ("nvidia-l4-24gb", "nvidia-h100-80gb"))


def test_decoding_is_bound_by_reading_the_weights():
    expected = expect(LLAMA, Shape(), L4, 1000)
    assert expected.tpot.low == pytest.approx(LLAMA.weight_bytes / 300e9 * 1000, rel=0.05)
    assert expected.tpot.low < 62 < expected.tpot.high  # what engines get on an L4


def test_a_long_prompt_is_bound_by_computing():
    expected = expect(LLAMA, Shape(), H100, 8000)
    assert expected.ttft.low > 2 * 7e9 * 8000 / 989e12 * 1000


def test_packing_pays_where_memory_is_the_bound():
    packed = expect(LLAMA, Shape(weights="int4"), L4, 100)
    assert packed.tpot.low < 0.45 * expect(LLAMA, Shape(), L4, 100).tpot.low


def test_a_mixture_reads_its_chosen_experts_alone():
    config = {
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "torch_dtype": "bfloat16",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    mixture = from_hugging_face(config)
    one = expect(mixture, Shape(), H100, 1).tpot.low
    assert one == pytest.approx(mixture.active_parameters * 2 / 3350e9 * 1000, rel=0.05)
    assert expect(mixture, Shape(), H100, 100).ttft.low > 3 * one  # by then all are chosen


@given(
    tokens=st.integers(1, 100_000),
    tensor=st.sampled_from([1, 2, 8]),
    weights=st.sampled_from(["auto", "none", "fp8", "int8", "int4"]),
    faster=st.floats(1, 10),
)
def test_a_better_device_is_never_slower_and_ranges_are_ranges(tokens, tensor, weights, faster):
    shape = Shape(tensor=tensor, weights=weights)
    better = replace(
        L4, bandwidth=L4.bandwidth * faster, flops={name: value * faster for name, value in L4.flops.items()}
    )
    old, new = expect(LLAMA, shape, L4, tokens), expect(LLAMA, shape, better, tokens)
    for before, after in ((old.ttft, new.ttft), (old.tpot, new.tpot)):
        assert 0 < before.low <= before.high
        assert after.low <= before.low
        assert after.high <= before.high


def test_shares_of_a_replica_cover_the_model():
    for tensor, pipeline in ((1, 1), (2, 1), (8, 1), (1, 4), (4, 3)):
        shape = Shape(tensor=tensor, pipeline=pipeline)
        share = device_weights(LLAMA, shape)
        assert share * tensor * pipeline >= LLAMA.weight_bytes
        assert needs_of(LLAMA, shape).kv_bytes_per_token * tensor * pipeline >= LLAMA.kv_bytes_per_token(2)


def test_a_key_head_is_never_cut():
    assert needs_of(LLAMA, Shape(tensor=16)).kv_bytes_per_token == LLAMA.kv_bytes_per_token(2) // 8


def test_keys_and_values_by_type():
    assert kv_bytes(64, 2, Shape()) == 128
    assert kv_bytes(64, 2, Shape(kv_cache="fp8")) == 64
    assert kv_bytes(64, 2, Shape(kv_cache="int8")) == 68
    assert kv_bytes(64, 4, Shape(cpu=True)) == 128


def test_a_gguf_file_is_held_as_it_is_on_a_cpu_and_unpacked_elsewhere():
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 256,
        "llama.attention.head_count": 4,
        "llama.context_length": 512,
    }
    for dtype, size, held in (("Q8_0", 34 * 800, 34 * 800), ("Q4_K", 144 * 100, 256 * 100 * 4)):
        facts = from_gguf(metadata, [TensorEntry("token_embd.weight", dtype, (100, 256), size)])
        assert weight_bytes(facts, Shape(cpu=True)) == held
        assert weight_bytes(facts, Shape()) == 256 * 100 * 4


def test_a_slice_is_a_share_of_its_gpu():
    whole = CATALOGUE["nvidia-h100-80gb"]
    part = device_of(whole, mig="2g.20gb")
    assert part.memory < whole.memory_bytes / 4
    assert part.bandwidth == whole.bandwidth_gb_per_second * 1e9 / 4
    assert part.per_node == 1
    with pytest.raises(KeyError):
        device_of(whole, mig="2g.99gb")


def test_a_cpu_is_its_container():
    device = device_of(CATALOGUE["cpu"], memory=512 * MIB, cores=8)
    assert device.memory == 512 * MIB
    assert device.compute("float32") == pytest.approx(8 * 0.08e12)
