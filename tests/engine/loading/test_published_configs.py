"""Configurations as published models carry them, in older layouts too: all parameters are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway_engine.loading.hf_config import read_config
from slipway_engine.models.config import DecoderConfig, ExpertsConfig

LONG = [1.0 + pair / 10 for pair in range(48)]
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma-2-2b": {
        "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192,
        "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
        "torch_dtype": "float32", "vocab_size": 256000, "cache_implementation": "hybrid",
    },
    "gemma-3-1b": {
        "architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912, "max_position_embeddings": 32768, "num_attention_heads": 4,
        "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144,
    },
    "phi-3.5-mini": {
        "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05, "rope_scaling": {"long_factor": LONG, "short_factor": LONG, "type": "su"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 32064,
    },
    "mixtral-8x7b": {
        "architectures": ["MixtralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 32000,
    },
    "qwen3-30b-a3b": {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "decoder_sparse_step": 1,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936,
    },
    "qwen2.5-7b-yarn": {
        "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 3584,
        "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 152064,
    },
}  # fmt: skip
PARAMETERS = {
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
    "phi-3.5-mini": 3_821_079_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen2.5-7b-yarn": 7_615_616_512,
}


def _read(name: str, directory: Path, **changes: Any) -> DecoderConfig:
    (directory / "config.json").write_text(json.dumps({**CONFIGS[name], **changes}))
    return read_config(directory)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parameters_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    assert _read(name, tmp_path).parameters() == PARAMETERS[name]


def test_gemma_alternates_windows_and_ties_its_embeddings(tmp_path: Path) -> None:
    two = _read("gemma-2-2b", tmp_path)
    assert two.windows == (4096, None) * 13
    assert two.tied_embeddings
    assert (two.attention_softcap, two.logits_softcap, two.attention_scale) == (50.0, 30.0, 1 / 16)
    three = _read("gemma-3-1b", tmp_path)
    assert three.windows == ((512,) * 5 + (None,)) * 4 + (512, 512)
    assert (three.attention_softcap, three.logits_softcap) == (0.0, 0.0)
    assert three.local_rope is not None
    assert (three.rope.theta, three.local_rope.theta) == (1e6, 1e4)


def test_gemma_3_scales_only_its_global_base(tmp_path: Path) -> None:
    config = _read("gemma-3-1b", tmp_path, rope_scaling={"factor": 8.0, "rope_type": "linear"})
    assert (config.rope.kind, config.rope.factor) == ("linear", 8.0)
    assert config.local_rope is not None
    assert config.local_rope.kind == "default"


def test_phi_3_reads_the_older_name_of_longrope(tmp_path: Path) -> None:
    rope = _read("phi-3.5-mini", tmp_path).rope
    assert (rope.kind, rope.original_max_position) == ("longrope", 4096)
    assert rope.magnitude == pytest.approx(1.1902380714238083)


def test_experts(tmp_path: Path) -> None:
    assert _read("mixtral-8x7b", tmp_path).experts == ExpertsConfig(8, 2, normalised=True)
    qwen3 = _read("qwen3-30b-a3b", tmp_path)
    assert qwen3.experts == ExpertsConfig(128, 8, normalised=True)
    assert (qwen3.intermediate_size, qwen3.windows) == (768, (None,) * 48)


def test_yarn_reaches_as_far_as_its_factor(tmp_path: Path) -> None:
    config = _read("qwen2.5-7b-yarn", tmp_path)
    assert config.max_position == 131072
    assert config.windows == (None,) * 28


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("gemma-2-2b", {"hidden_activation": "gelu"}, "hidden_activation 'gelu'.*gelu_pytorch_tanh"),
        ("gemma-3-1b", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "gemma-3-1b",
            {"architectures": ["Gemma3ForConditionalGeneration"]},
            "Gemma3ForConditionalGeneration",
        ),
        ("qwen3-30b-a3b", {"mlp_only_layers": [0]}, r"mlp_only_layers \[0\]"),
        ("qwen3-30b-a3b", {"decoder_sparse_step": 2}, "decoder_sparse_step 2"),
        ("qwen3-30b-a3b", {"shared_expert_intermediate_size": 5}, "shared_expert_intermediate_size"),
        ("mixtral-8x7b", {"num_local_experts": 10**9}, "num_local_experts"),
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ("phi-3.5-mini", {"partial_rotary_factor": 0.01}, "partial_rotary_factor"),
        ("phi-3.5-mini", {"partial_rotary_factor": 0.5}, "short_factor.*list of 24"),
    ],
)
def test_names_what_it_does_not_run(name: str, changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    from slipway_engine.errors import EngineError

    with pytest.raises(EngineError, match=word):
        _read(name, tmp_path, **changes)
