"""What each architecture of GGUF files is: a row of data, and the metadata that it alone has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, TypeAlias

from slipway_engine.loading.fields import Fields
from slipway_engine.loading.limits import (
    MAX_ALL_EXPERTS,
    MAX_EXPERTS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_WIDTH,
)
from slipway_engine.models.config import DecoderConfig, ExpertsConfig, RopeConfig

Extras: TypeAlias = Callable[[Fields, DecoderConfig], dict[str, Any]]
"""Reads the metadata that only this architecture has; returns the fields of the decoder that change."""


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture, by its name in Hugging Face's layout.

    `permuted` where the converter reordered the rows of queries and keys; `names` are tensors that are called
    otherwise than in Llama's files; `reads` are those of FEATURES that mean something here.
    """

    architecture: str
    permuted: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    extras: Extras = lambda fields, config: {}


def _gemma(fields: Fields, config: DecoderConfig, largest: int, pattern: int, window: int) -> dict[str, Any]:
    """The largest model of each generation, known by its depth, scales queries by its width instead."""
    wide = config.num_layers == largest
    per_head = config.hidden_size / config.num_heads if wide else config.head_dim
    return {
        "norms": "both",
        "norm_offset": 1.0,
        "activation": "gelu_tanh",
        "attention_scale": fields.number("attention.scale", 1e-6, 1e6, 1 / sqrt(per_head)),
        "embedding_scale": sqrt(config.hidden_size),
        "windows": _windows(fields, config.num_layers, pattern, window),
    }


def _gemma2(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        **_gemma(fields, config, largest=46, pattern=2, window=4096),
        "attention_softcap": fields.number("attn_logit_softcapping", 0, 1e6, 50.0),
        "logits_softcap": fields.number("final_logit_softcapping", 0, 1e6, 30.0),
    }


def _gemma3(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        **_gemma(fields, config, largest=62, pattern=6, window=1024),
        "logits_softcap": fields.number("final_logit_softcapping", 0, 1e6, 0.0),
        "local_rope": RopeConfig(fields.number("rope.freq_base_swa", 1, 1e12, 10000.0)),
    }


def _windows(fields: Fields, layers: int, pattern: int, window: int) -> tuple[int | None, ...]:
    """Every `pattern`-th layer sees all, unless the file says which ones."""
    window = fields.integer("attention.sliding_window", 0, MAX_POSITIONS, window)
    name = "attention.sliding_window_pattern"
    slides = fields.values.get(fields.prefix + name)
    if not isinstance(slides, list):
        pattern = fields.integer(name, 1, MAX_LAYERS, pattern)
        slides = [bool((layer + 1) % pattern) for layer in range(layers)]
    if len(slides) != layers or not all(isinstance(sliding, bool) for sliding in slides):
        raise fields.corrupt(name, f"a number or a list of {layers} booleans")
    return tuple(window if sliding and window else None for sliding in slides)


def _granite(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        "embedding_scale": fields.number("embedding_scale", 1e-6, 1e6, 1.0),
        "residual_scale": fields.number("residual_scale", 1e-6, 1e6, 1.0),
        "attention_scale": fields.number("attention.scale", 0, 1e6, 0.0),
        "logits_scale": 1 / fields.number("logit_scale", 1e-6, 1e6, 1.0),
    }


def _olmo2(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {"norms": "post", "qk_norm": False, "qk_norm_wide": True}


def _llama(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    """Files of Mixtral's kind are Llama's with experts."""
    if not fields.values.get(fields.prefix + "expert_count"):
        return {}
    return {"architecture": "MixtralForCausalLM", "experts": _experts(fields, config.num_layers)}


def _qwen3_moe(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        "intermediate_size": fields.integer("expert_feed_forward_length", 1, MAX_WIDTH),
        "experts": _experts(fields, config.num_layers),
    }


def _experts(fields: Fields, layers: int) -> ExpertsConfig:
    count = fields.integer("expert_count", 1, min(MAX_EXPERTS, MAX_ALL_EXPERTS // layers))
    return ExpertsConfig(count, fields.integer("expert_used_count", 1, count), normalised=True)


_GEMMA_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_SCALES = ("embedding_scale", "residual_scale", "logit_scale", "attention.scale")

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", permuted=True, reads=("expert_count",), extras=_llama),
    "qwen2": Family("Qwen2ForCausalLM"),
    "qwen3": Family("Qwen3ForCausalLM"),
    "qwen3moe": Family("Qwen3MoeForCausalLM", reads=("expert_count",), extras=_qwen3_moe),
    "gemma2": Family(
        "Gemma2ForCausalLM", names=_GEMMA_NAMES, reads=(*_SOFTCAPS, "attention.scale"), extras=_gemma2
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        names=_GEMMA_NAMES,
        reads=("final_logit_softcapping", "attention.scale"),
        extras=_gemma3,
    ),
    "phi3": Family("Phi3ForCausalLM", names={"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        names={
            "post_attention_norm": "post_attention_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        extras=_olmo2,
    ),
    "granite": Family("GraniteForCausalLM", permuted=True, reads=_SCALES, extras=_granite),
}
"""Every architecture that is read from GGUF files, by its name there."""

FEATURES: dict[str, object] = {
    "expert_count": 0, **dict.fromkeys(_SOFTCAPS, 0), **dict.fromkeys(_SCALES, 1), "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0, "attention.causal": True, "use_parallel_residual": False,
    "expert_shared_count": 0, "leading_dense_block_count": 0, "expert_gating_func": 1,
    "expert_weights_norm": True, "rope.scaling.yarn_log_multiplier": 0, "rope.scaling.yarn_ext_factor": 1,
}  # fmt: skip
"""Metadata that changes what a model computes, with the value that changes nothing.

One that has another value is refused where its family does not read it.
"""
