"""Facts from the parsed header of a GGUF file: its metadata and its tensor table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slipway_api.facts import model
from slipway_api.facts.fields import Fields
from slipway_api.facts.model import FactsError, ModelFacts, TensorEntry, build

_FLOATS = ("F64", "F32", "BF16", "F16")


def from_gguf(metadata: Mapping[str, Any], tensors: Iterable[TensorEntry]) -> ModelFacts:
    """Return the facts of a GGUF file; shapes are row-major, dtypes GGML's names. Raises FactsError."""
    architecture = Fields(metadata).text("general.architecture")
    fields = Fields(metadata, f"{architecture}.")
    sizes: dict[str, int] = {}
    parameters, experts_held, rows, tied = 0, 0, None, True
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
        parameters += tensor.elements
        experts_held += tensor.elements if "_exps." in tensor.name else 0
        tied = tied and tensor.name != "output.weight"
        rows = tensor.shape[0] if tensor.name == "token_embd.weight" and tensor.shape else rows
    if not parameters:
        raise FactsError("the GGUF file's tensor table is empty.")
    return build(
        **_shape(fields, architecture, _vocab(metadata, fields, rows)),
        format="gguf",
        dtype=_dtype(sizes),
        quantization=_packed(sizes),
        weights=sizes,
        parameters=parameters,
        expert_parameters=experts_held,
        tied=tied,
    )


def _shape(fields: Fields, architecture: str, vocab: int) -> dict[str, Any]:
    layers = fields.integer("block_count", high=model.MAX_LAYERS)
    hidden = fields.integer("embedding_length", high=model.MAX_WIDTH)
    heads = fields.integer("attention.head_count", high=model.MAX_HEADS)
    kv_heads = fields.integer("attention.head_count_kv", low=0, high=model.MAX_HEADS, default=heads) or heads
    key = fields.integer("attention.key_length", high=model.MAX_HEAD_DIM, default=max(1, hidden // heads))
    value = fields.integer("attention.value_length", high=model.MAX_HEAD_DIM, default=key)
    experts = fields.integer("expert_count", low=0, high=model.MAX_EXPERTS, default=0)
    latent = fields.get("attention.kv_lora_rank") is not None
    width = kv_heads * (key + value)
    if latent:
        rank = fields.integer("attention.kv_lora_rank", high=model.MAX_WIDTH)
        width = rank + fields.integer("rope.dimension_count", high=model.MAX_HEAD_DIM, default=64)
    names = ("expert_feed_forward_length", "feed_forward_length") if experts else ("feed_forward_length",)
    window = fields.integer("attention.sliding_window", low=0, high=model.MAX_POSITIONS, default=0)
    return {
        "architecture": architecture,
        "layers": layers,
        "hidden": hidden,
        "intermediate": fields.integer(*names, high=model.MAX_WIDTH, default=4 * hidden),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": key,
        "kv_width": width,
        "kv_layers": layers,
        "latent": latent,
        "vocab": vocab,
        "max_position": fields.integer("context_length", high=model.MAX_POSITIONS),
        "experts": experts,
        "experts_per_token": fields.integer("expert_used_count", high=experts, default=min(2, experts))
        if experts
        else 0,
        "windows": _windows(fields, layers, window),
    }


def _windows(fields: Fields, layers: int, window: int) -> tuple[tuple[int, int], ...]:
    slides = fields.get("attention.sliding_window_pattern")
    if isinstance(slides, list):
        count = sum(sliding is True for sliding in slides)
    elif slides is not None:
        count = layers - layers // fields.integer("attention.sliding_window_pattern", high=model.MAX_LAYERS)
    else:
        count = layers
    count = min(count, layers)
    return ((window, count),) if window and count else ()


def _vocab(metadata: Mapping[str, Any], fields: Fields, rows: int | None) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    known = rows or (len(tokens) if isinstance(tokens, list) else None)
    return known or fields.integer("vocab_size", high=model.MAX_VOCAB)


def _dtype(sizes: Mapping[str, int]) -> str:
    """Return the type that matrices unpack to: half a float's where nearly all are stored so, else F32."""
    largest = max(sizes, key=lambda name: sizes[name])
    return largest if largest in ("BF16", "F16") else "F32"


def _packed(sizes: Mapping[str, int]) -> str | None:
    """Return the packed type that holds most, where packed types hold most."""
    largest = max(sizes, key=lambda name: sizes[name])
    return None if largest in _FLOATS else largest
