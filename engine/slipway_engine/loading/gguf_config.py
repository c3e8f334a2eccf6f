"""The metadata of a GGUF file, read into a `DecoderConfig` or refused by name."""

from __future__ import annotations

from dataclasses import replace
from math import log

import torch

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.loading.dequant import read_tensor
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.gguf import GGUFFile
from slipway_engine.loading.gguf_families import FAMILIES, FEATURES, Family
from slipway_engine.loading.hf_config import check_heads
from slipway_engine.loading.limits import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
)
from slipway_engine.models.config import DecoderConfig, RopeConfig

EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
ROPE_FACTORS = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)

_FACTOR = (1.0, 1e6)


def family_of(file: GGUFFile) -> tuple[str, Family]:
    """Return the file's architecture, or refuse it by name."""
    name = Fields(file.path, file.metadata, "general.").text("architecture")
    if name not in FAMILIES:
        raise ModelUnsupported(
            f"{file.path}: the architecture {name!r} is not supported; supported are {', '.join(FAMILIES)}."
        )
    return name, FAMILIES[name]


def read_config(file: GGUFFile) -> DecoderConfig:
    """Read a decoder's configuration out of the metadata."""
    name, family = family_of(file)
    fields = Fields(file.path, file.metadata, f"{name}.")
    _refuse_unknown_features(fields, family)
    heads = fields.integer("attention.head_count", 1, MAX_HEADS)
    hidden = fields.integer("embedding_length", 1, MAX_WIDTH)
    layers = fields.integer("block_count", 1, MAX_LAYERS)
    head_dim = _head_dim(fields, hidden // heads)
    rope = _rope(file, fields, head_dim)
    config = DecoderConfig(
        architecture=family.architecture,
        vocab_size=_vocab_size(file, fields),
        hidden_size=hidden,
        intermediate_size=fields.integer("feed_forward_length", 1, MAX_WIDTH),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.integer("attention.head_count_kv", 1, heads, heads),
        head_dim=head_dim,
        max_position=fields.integer("context_length", 1, MAX_POSITIONS),
        rms_eps=fields.number("attention.layer_norm_rms_epsilon", 0, 1),
        rope=rope,
        tied_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        out_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        windows=_windows(fields, layers),
        eos_token_ids=_eos(file),
        dtype=_dtype(file),
    )
    config = replace(config, **family.extras(fields, config))
    check_heads(file.path, config)
    return config


def _refuse_unknown_features(fields: Fields, family: Family) -> None:
    for name, neutral in FEATURES.items():
        value = fields.values.get(fields.prefix + name)
        if name not in family.reads and value is not None and value != neutral:
            raise ModelUnsupported(
                f"{fields.path}: {fields.prefix}{name} {value!r} is not supported for this architecture; "
                f"{neutral} is."
            )


def _head_dim(fields: Fields, default: int) -> int:
    head_dim = fields.integer("attention.key_length", 2, MAX_HEAD_DIM, default)
    values = fields.integer("attention.value_length", 1, MAX_HEAD_DIM, head_dim)
    if values != head_dim:
        raise ModelUnsupported(
            f"{fields.path}: {fields.prefix}attention.value_length {values} is not supported; "
            f"that of the keys, {head_dim}, is."
        )
    return head_dim


def _vocab_size(file: GGUFFile, fields: Fields) -> int:
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else None
    size = fields.integer("vocab_size", 1, MAX_VOCAB, rows)
    return rows if rows is not None and rows <= MAX_VOCAB else size


def _rope(file: GGUFFile, fields: Fields, head_dim: int) -> RopeConfig:
    theta = fields.number("rope.freq_base", 1, 1e12, 10000.0)
    turned = fields.integer("rope.dimension_count", 2, head_dim, head_dim)
    magnitude = fields.number("rope.scaling.attn_factor", 1e-3, 1e3, 1.0)
    base = RopeConfig(theta, magnitude=magnitude, fraction=turned / head_dim)
    if turned % 2 or base.turned(head_dim) != turned:
        raise fields.corrupt("rope.dimension_count", f"an even number up to {head_dim}")
    kind = fields.text("rope.scaling.type", "none")
    if SHORT_FACTORS in file.tensors and LONG_FACTORS in file.tensors and kind in ("none", "longrope"):
        return replace(
            base,
            kind="longrope",
            factors=_rope_factors(file, SHORT_FACTORS, turned),
            long_factors=_rope_factors(file, LONG_FACTORS, turned),
            original_max_position=fields.integer("rope.scaling.original_context_length", 1, MAX_POSITIONS),
        )
    if ROPE_FACTORS in file.tensors:
        return replace(base, kind="factors", factors=_rope_factors(file, ROPE_FACTORS, turned))
    if kind == "none":
        return base
    if kind == "linear":
        return replace(base, kind="linear", factor=fields.number("rope.scaling.factor", *_FACTOR))
    if kind == "yarn" and theta > 1:
        return _yarn(fields, base)
    raise ModelUnsupported(
        f"{file.path}: rope scaling {kind!r} is not supported; none, linear, yarn and longrope (with both of "
        "its tensors) are."
    )


def _yarn(fields: Fields, base: RopeConfig) -> RopeConfig:
    factor = fields.number("rope.scaling.factor", *_FACTOR)
    length = fields.integer("context_length", 1, MAX_POSITIONS)
    return replace(
        base,
        kind="yarn",
        factor=factor,
        original_max_position=fields.integer(
            "rope.scaling.original_context_length", 1, MAX_POSITIONS, length
        ),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0),
        magnitude=base.magnitude * (0.1 * log(factor) + 1),
    )


def _rope_factors(file: GGUFFile, name: str, turned: int) -> tuple[float, ...]:
    if file.tensors[name].shape != (turned // 2,):
        raise ModelCorrupt(f"{file.path}: the tensor {name!r} must hold {turned // 2} numbers.")
    factors = read_tensor(file, name, torch.float32)
    if not bool(torch.isfinite(factors).all()) or not bool((factors > 0).all()):
        raise ModelCorrupt(f"{file.path}: the tensor {name!r} must hold positive numbers.")
    return tuple(factors.tolist())


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    window = fields.integer("attention.sliding_window", 0, MAX_POSITIONS, 0)
    return (window or None,) * layers


def _eos(file: GGUFFile) -> tuple[int, ...]:
    fields = Fields(file.path, file.metadata, "tokenizer.ggml.")
    found = [fields.integer(key, 0, MAX_VOCAB) for key in EOS_KEYS if fields.has(key)]
    return tuple(dict.fromkeys(found))


def _dtype(file: GGUFFile) -> torch.dtype:
    """Return the type of the matrices; unpacked blocks need float32 to keep their values."""
    kinds = {tensor.type.name for tensor in file.tensors.values() if len(tensor.shape) > 1}
    return {frozenset(["BF16"]): torch.bfloat16, frozenset(["F16"]): torch.float16}.get(
        frozenset(kinds), torch.float32
    )
