"""Facts of models: published sizes come out of published configurations, and nonsense is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_api.facts import (
    MAX_ENCODED,
    FactsError,
    TensorEntry,
    decode,
    encode,
    from_gguf,
    from_hugging_face,
    index_bytes,
    safetensors_tensors,
)

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "torch_dtype": "bfloat16",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "dtype": "bfloat16",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8"},
}


def test_the_published_size_of_llama_8b():
    facts = from_hugging_face(LLAMA_8B)
    assert facts.parameters == 8_030_261_248  # as published
    assert facts.weight_bytes == 2 * facts.parameters
    assert facts.kv_bytes_per_token(2) == 131_072
    assert facts.estimated


def test_the_published_size_of_mixtral():
    facts = from_hugging_face(MIXTRAL)
    assert facts.parameters == 46_702_792_704  # as published
    assert round(facts.active_parameters / 1e9, 1) == 12.9
    assert facts.windows == ()


def test_the_published_size_of_deepseek_v3():
    facts = from_hugging_face(DEEPSEEK_V3)
    assert round(facts.parameters / 1e9) == 671
    assert round(facts.active_parameters / 1e9) == 38  # 37 published, the router's norms and one head apart
    assert facts.kv_width == 576
    assert facts.quantization == "fp8"
    assert facts.weight_bytes == facts.parameters


def test_headers_beat_the_configuration():
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }
    facts = from_hugging_face(LLAMA_8B, safetensors_tensors(header))
    assert facts.weights == {"BF16": 24, "F32": 8}
    assert facts.parameters == 14
    assert not facts.estimated


def test_packed_weights_are_counted_as_the_weights_they_are():
    config = {**LLAMA_8B, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    tensors = [TensorEntry("q.qweight", "I32", (512, 4096), 512 * 4096 * 4)]
    facts = from_hugging_face(config, tensors)
    assert facts.parameters == 512 * 4096 * 8
    assert facts.quantization == "gptq"


def test_the_index_gives_the_size():
    assert (
        from_hugging_face(LLAMA_8B, None, index_bytes({"metadata": {"total_size": 16e9}})).weight_bytes
        == 16 * 10**9
    )
    assert index_bytes({}) is None
    with pytest.raises(FactsError, match="total_size"):
        index_bytes({"metadata": {"total_size": "many"}})


def test_windows_and_layers_without_a_cache():
    mixed = {
        **LLAMA_8B,
        "num_hidden_layers": 4,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention", "full_attention", "linear_attention", "sliding_attention"],
    }
    facts = from_hugging_face(mixed)
    assert facts.windows == ((1024, 2),)
    assert facts.kv_layers == 3
    gated = {**LLAMA_8B, "sliding_window": 4096, "use_sliding_window": False}
    assert from_hugging_face(gated).windows == ()


def test_a_text_model_inside_a_multimodal_one():
    inner = {k: v for k, v in LLAMA_8B.items() if k != "architectures"}
    outer = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": inner}
    assert from_hugging_face(outer).layers == 32


def test_a_gguf_file():
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 30,
        "llama.embedding_length": 576,
        "llama.feed_forward_length": 1536,
        "llama.attention.head_count": 9,
        "llama.attention.head_count_kv": 3,
        "llama.context_length": 2048,
        "tokenizer.ggml.tokens": ["a"] * 7,
    }
    tensors = [
        TensorEntry("token_embd.weight", "Q8_0", (49152, 576), 30_081_024),
        TensorEntry("blk.0.attn_q.weight", "Q4_1", (576, 576), 207_360),
        TensorEntry("output_norm.weight", "F32", (576,), 2304),
    ]
    facts = from_gguf(metadata, tensors)
    assert (facts.vocab, facts.tied, facts.quantization) == (49152, True, "Q8_0")
    assert facts.kv_bytes_per_token(2) == 2 * 3 * 64 * 30 * 2
    assert not facts.estimated


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": "32"}, "must be an integer from 1"),
        ({"num_hidden_layers": True}, "must be an integer from 1"),
        ({"hidden_size": 10**9}, "must be an integer from 1"),
        ({"num_key_value_heads": 7}, "cannot share 7 key heads"),
        ({"architectures": None}, "model_type is missing"),
        ({"architectures": ["\n"]}, "architecture"),
        ({"quantization_config": {"quant_method": 3}}, "quant_method"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, sentence):
    with pytest.raises(FactsError, match=sentence):
        from_hugging_face({**LLAMA_8B, **change})


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"dtype": "F32"},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
    ],
)
def test_a_header_that_cannot_be_is_refused(entry):
    with pytest.raises(FactsError, match="safetensors header"):
        list(safetensors_tensors({"a": entry}))


@pytest.mark.parametrize("config", [LLAMA_8B, MIXTRAL, DEEPSEEK_V3])
def test_travels_through_a_termination_message(config):
    facts = from_hugging_face(config)
    text = encode(facts)
    assert len(text) < MAX_ENCODED / 4
    assert decode(text) == facts


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "{", '{"layers": 1e3}', "x" * 5000, '{"heads": true}']
)
def test_a_message_that_cannot_be_is_refused(text):
    with pytest.raises(FactsError):
        decode(text)


def test_a_newer_writer_may_say_more():
    facts = from_hugging_face(LLAMA_8B)
    assert decode(json.dumps({**json.loads(encode(facts)), "new": 1})) == facts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    changes=st.dictionaries(
        st.sampled_from(
            sorted(
                {
                    *LLAMA_8B,
                    *DEEPSEEK_V3,
                    *MIXTRAL,
                    "layer_types",
                    "text_config",
                    "sliding_window",
                    "sliding_window_pattern",
                    "head_dim",
                }
            )
        ),
        JSON,
        max_size=6,
    )
)
def test_any_configuration_gives_facts_or_a_sentence(changes):
    try:
        facts = from_hugging_face({**DEEPSEEK_V3, **changes})
    except FactsError:
        return
    assert decode(encode(facts)) == facts


@settings(max_examples=200)
@given(
    changes=st.dictionaries(
        st.sampled_from(
            [
                "block_count",
                "embedding_length",
                "attention.head_count",
                "context_length",
                "attention.head_count_kv",
                "expert_count",
                "attention.sliding_window_pattern",
                "attention.sliding_window",
                "attention.kv_lora_rank",
            ]
        ),
        JSON,
        max_size=5,
    )
)
def test_any_gguf_header_gives_facts_or_a_sentence(changes):
    base = {"block_count": 2, "embedding_length": 8, "attention.head_count": 2, "context_length": 16}
    metadata = {"general.architecture": "llama"} | {f"llama.{k}": v for k, v in {**base, **changes}.items()}
    try:
        facts = from_gguf(metadata, [TensorEntry("token_embd.weight", "F16", (4, 8), 64)])
    except FactsError:
        return
    assert decode(encode(facts)) == facts
