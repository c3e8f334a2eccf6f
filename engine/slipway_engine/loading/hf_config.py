"""A `config.json` in Hugging Face layout, read into a `DecoderConfig` or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from slipway_engine.errors import ModelAccessDenied, ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.limits import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_JSON,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
)
from slipway_engine.models.config import DecoderConfig, RopeConfig

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_THETA = (1.0, 1e12)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of bounded size."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelCorrupt(f"{path} is larger than {MAX_JSON} bytes, too large for a configuration.")
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} does not exist; the directory is no Hugging Face model.") from error
    except PermissionError as error:
        raise ModelAccessDenied(f"{path} may not be read by this user; change its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path} is not JSON: {error}; fetch the model again.") from error
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path} holds no JSON object; fetch the model again.")
    return value


def read_config(directory: Path) -> DecoderConfig:
    """Read `config.json`, and the end-of-sequence ids of `generation_config.json` where there is one."""
    path = directory / "config.json"
    fields = Fields(path, read_json(path))
    architecture = _architecture(fields)
    _refuse_unknown_features(fields)
    layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    qwen2, biased = architecture == "Qwen2ForCausalLM", fields.flag("attention_bias", False)
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, MAX_WIDTH),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", 1, heads, heads),
        head_dim=fields.integer("head_dim", 2, MAX_HEAD_DIM, hidden // heads),
        max_position=fields.integer("max_position_embeddings", 1, MAX_POSITIONS, 2048),
        rms_eps=fields.number("rms_norm_eps", 0, 1, 1e-6),
        rope=_rope(fields),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        qkv_bias=qwen2 or biased,
        out_bias=biased and not qwen2,
        mlp_bias=fields.flag("mlp_bias", False),
        qk_norm=architecture == "Qwen3ForCausalLM",
        windows=_windows(fields, architecture, layers),
        eos_token_ids=_eos(fields, directory),
        dtype=_dtype(fields),
    )
    check_heads(path, config)
    return config


def check_heads(path: Path, config: DecoderConfig) -> None:
    """Refuse head counts that do not divide, and odd head widths."""
    if config.num_heads % config.num_kv_heads:
        raise ModelCorrupt(
            f"{path}: {config.num_heads} query heads cannot share {config.num_kv_heads} key heads evenly."
        )
    if config.head_dim % 2:
        raise ModelCorrupt(f"{path}: a head of {config.head_dim} elements has no pairs to rotate.")


def _architecture(fields: Fields) -> str:
    names = fields.values.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise fields.corrupt("architectures", "a list of one name")
    for name in names:
        if name in SUPPORTED:
            return str(name)
    raise ModelUnsupported(
        f"{fields.path}: the architecture {names[0]} is not supported; supported are {', '.join(SUPPORTED)}."
    )


def _refuse_unknown_features(fields: Fields) -> None:
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelUnsupported(f"{fields.path}: hidden_act {activation!r} is not supported; silu is.")
    if fields.has("quantization_config"):
        method = fields.table("quantization_config").values.get("quant_method")
        raise ModelUnsupported(
            f"{fields.path}: weights quantised by {method!r} are not supported; "
            "use the unquantised model or a GGUF file."
        )
    partial = fields.number("partial_rotary_factor", 0, 1, 1.0)
    if partial != 1.0:
        raise ModelUnsupported(f"{fields.path}: partial_rotary_factor {partial:g} is not supported; 1 is.")


def _rope(fields: Fields) -> RopeConfig:
    """Read both layouts: `rope_parameters`, and the older `rope_theta` beside `rope_scaling`."""
    table = fields.table("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    theta = table if table.has("rope_theta") else fields
    base = theta.number("rope_theta", *_THETA, 10000.0)
    kind = table.text("rope_type", table.text("type", "default"))
    if table.number("partial_rotary_factor", 0, 1, 1.0) != 1.0:
        raise ModelUnsupported(f"{fields.path}: a partial rotary embedding is not supported.")
    if kind == "default":
        return RopeConfig(base)
    if kind == "linear":
        return RopeConfig(base, "linear", factor=table.number("factor", 1, 1e6))
    if kind == "llama3":
        return _llama3(table, base)
    raise ModelUnsupported(
        f"{fields.path}: rope_type {kind!r} is not supported; default, linear and llama3 are."
    )


def _llama3(table: Fields, base: float) -> RopeConfig:
    low = table.number("low_freq_factor", 1e-6, 1e6)
    high = table.number("high_freq_factor", 1e-6, 1e6)
    if high <= low:
        raise table.corrupt("high_freq_factor", f"greater than low_freq_factor, {low:g}")
    return RopeConfig(
        base,
        "llama3",
        factor=table.number("factor", 1, 1e6),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position=table.integer("original_max_position_embeddings", 1, MAX_POSITIONS),
    )


def _windows(fields: Fields, architecture: str, layers: int) -> tuple[int | None, ...]:
    """Return each layer's sliding window; `layer_types` decides where it is given."""
    off = not fields.flag("use_sliding_window", architecture == "MistralForCausalLM")
    if architecture == "LlamaForCausalLM" or off or not fields.has("sliding_window"):
        return (None,) * layers
    window = fields.integer("sliding_window", 1, MAX_POSITIONS)
    if architecture == "MistralForCausalLM":
        return (window,) * layers
    kinds = fields.values.get("layer_types")
    if kinds is None:
        first = fields.integer("max_window_layers", 0, MAX_LAYERS, layers)
        return tuple(window if layer >= first else None for layer in range(layers))
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise fields.corrupt("layer_types", f"a list of {layers} names")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _eos(fields: Fields, directory: Path) -> tuple[int, ...]:
    ids = fields.integers("eos_token_id", 0, MAX_VOCAB)
    path = directory / "generation_config.json"
    if path.exists():
        ids += Fields(path, read_json(path)).integers("eos_token_id", 0, MAX_VOCAB)
    return tuple(dict.fromkeys(ids))


def _dtype(fields: Fields) -> torch.dtype:
    name = fields.text("dtype", fields.text("torch_dtype", "float32")).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelUnsupported(
            f"{fields.path}: the dtype {name!r} is not supported; {', '.join(_DTYPES)} are."
        )
    return _DTYPES[name]
