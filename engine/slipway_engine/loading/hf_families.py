"""What each architecture is apart from its sizes: a row of data, and the fields that it alone has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal, TypeAlias

from slipway_engine.errors import ModelUnsupported
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.limits import MAX_ALL_EXPERTS, MAX_EXPERTS, MAX_WIDTH
from slipway_engine.models.config import DecoderConfig, ExpertsConfig

Extras: TypeAlias = Callable[[Fields, DecoderConfig], dict[str, Any]]
"""Reads the fields that only this architecture has; returns those of the decoder that change."""


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture.

    `windows` says which layers have a sliding window: "none", "all", or those that `layer_types` names. Where
    it is absent, "pattern" makes every `pattern`-th layer a full one, and "after" the first
    `max_window_layers`. `gated` windows count only where `use_sliding_window` is true. `partial` rotary
    embeddings are known. `reads` are those of FEATURES that mean something here.
    """

    qkv_bias: bool = False
    windows: Literal["none", "all", "pattern", "after"] = "none"
    gated: bool = False
    default_window: int | None = None
    pattern: int = 0
    eps: float = 1e-6
    theta: float = 10000.0
    local_theta: float | None = None
    tied: bool = False
    activation: str = "silu"
    activation_field: str = "hidden_act"
    partial: bool = False
    reads: tuple[str, ...] = ()
    extras: Extras = lambda fields, config: {}


def _gemma(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        "norms": "both",
        "norm_offset": 1.0,
        "activation": "gelu_tanh",
        "attention_scale": fields.number("query_pre_attn_scalar", 1e-6, 1e6, 256.0) ** -0.5,
        "embedding_scale": sqrt(config.hidden_size),
    }


def _gemma2(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        **_gemma(fields, config),
        "attention_softcap": _softcap(fields, "attn_logit_softcapping", 50.0),
        "logits_softcap": _softcap(fields, "final_logit_softcapping", 30.0),
    }


def _gemma3(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        **_gemma(fields, config),
        "qk_norm": True,
        "attention_softcap": _softcap(fields, "attn_logit_softcapping", 0.0),
        "logits_softcap": _softcap(fields, "final_logit_softcapping", 0.0),
    }


def _softcap(fields: Fields, name: str, default: float) -> float:
    """Return a cap; null means none, an absent field the architecture's own."""
    if name in fields.values and not fields.has(name):
        return 0.0
    return fields.number(name, 1e-3, 1e6, default) if fields.has(name) else default


def _granite(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {
        "embedding_scale": fields.number("embedding_multiplier", 1e-6, 1e6, 1.0),
        "residual_scale": fields.number("residual_multiplier", 1e-6, 1e6, 1.0),
        "attention_scale": fields.number("attention_multiplier", 1e-6, 1e6, 1.0),
        "logits_scale": 1 / fields.number("logits_scaling", 1e-6, 1e6, 1.0),
    }


def _qwen3(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {"qk_norm": True}


def _olmo2(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {"norms": "post", "qk_norm_wide": True}


def _mixtral(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    return {"experts": _experts(fields, config.num_layers, 8, 2, normalised=True)}


def _qwen3_moe(fields: Fields, config: DecoderConfig) -> dict[str, Any]:
    step = fields.integer("decoder_sparse_step", 1, 1 << 16, 1)
    dense = fields.values.get("mlp_only_layers")
    if step != 1 or dense not in (None, []):
        name, value = ("decoder_sparse_step", step) if step != 1 else ("mlp_only_layers", dense)
        raise ModelUnsupported(
            f"{fields.path}: {name} {value!r} is not supported; experts in every layer are "
            "(decoder_sparse_step 1, no mlp_only_layers)."
        )
    normalised = fields.flag("norm_topk_prob", False)
    return {
        "qk_norm": True,
        "intermediate_size": fields.integer("moe_intermediate_size", 1, MAX_WIDTH, 768),
        "experts": _experts(fields, config.num_layers, 128, 8, normalised=normalised),
    }


def _experts(fields: Fields, layers: int, count: int, chosen: int, *, normalised: bool) -> ExpertsConfig:
    name = "num_local_experts" if fields.has("num_local_experts") else "num_experts"
    number = fields.integer(name, 1, min(MAX_EXPERTS, MAX_ALL_EXPERTS // layers), count)
    return ExpertsConfig(number, fields.integer("num_experts_per_tok", 1, number, chosen), normalised)


_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_EXPERTS = ("num_local_experts", "num_experts")
_MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(windows="all", default_window=4096),
    "MixtralForCausalLM": Family(windows="all", eps=1e-5, theta=1e6, reads=_EXPERTS, extras=_mixtral),
    "Qwen2ForCausalLM": Family(qkv_bias=True, windows="after", gated=True, default_window=4096),
    "Qwen3ForCausalLM": Family(windows="after", gated=True, default_window=4096, extras=_qwen3),
    "Qwen3MoeForCausalLM": Family(
        windows="all", gated=True, default_window=4096, reads=_EXPERTS, extras=_qwen3_moe
    ),
    "Gemma2ForCausalLM": Family(
        windows="pattern", default_window=4096, pattern=2, tied=True, activation="gelu_pytorch_tanh",
        activation_field="hidden_activation", reads=_SOFTCAPS, extras=_gemma2,
    ),
    "Gemma3ForCausalLM": Family(
        windows="pattern", default_window=4096, pattern=6, theta=1e6, local_theta=1e4, tied=True,
        activation="gelu_pytorch_tanh", activation_field="hidden_activation", reads=_SOFTCAPS, extras=_gemma3,
    ),
    "GraniteForCausalLM": Family(reads=_MULTIPLIERS, extras=_granite),
    "Olmo2ForCausalLM": Family(eps=1e-5, extras=_olmo2),
    "Phi3ForCausalLM": Family(windows="all", eps=1e-5, partial=True),
}  # fmt: skip
"""Every architecture that is read from Hugging Face's layout, by its name there."""

FEATURES: dict[str, object] = {
    **dict.fromkeys((*_MULTIPLIERS, "logit_scale"), 1),
    **dict.fromkeys(
        ("alibi", "use_bidirectional_attention", "is_encoder_decoder", "add_cross_attention"), False
    ),
    **dict.fromkeys(
        (*_SOFTCAPS, *_EXPERTS, "num_shared_experts", "n_shared_experts", "n_routed_experts",
         "shared_expert_intermediate_size", "clip_qkv", "no_rope_layers", "attention_chunk_size")
    ),
}  # fmt: skip
"""Fields that change what a model computes, with the value that, like null, changes nothing.

One that has another value is refused where its family does not read it.
"""
