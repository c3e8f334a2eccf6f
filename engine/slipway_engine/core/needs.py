"""What a model on a device needs of the memory, in the terms of the memory plan."""

from __future__ import annotations

import torch

from slipway_engine.kv.plan import Needs
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.context import GROUP_TOKENS

_LOAD_CHUNK = 64 << 20
"""What unpacking a quantised tensor holds beside the result."""


def needs_of(config: DecoderConfig, dtype: torch.dtype, baseline: int, packed: bool) -> Needs:
    """Count bytes; `packed` where linear layers copy their weights: a tied embedding is held twice then."""
    size = dtype.itemsize
    embedding = config.vocab_size * config.hidden_size * size
    weights = config.parameters() * size + (embedding if packed and config.tied_embeddings else 0)
    widest = max(
        config.vocab_size * config.hidden_size,
        2 * config.intermediate_size * config.hidden_size,
        (config.query_size + 2 * config.kv_size) * config.hidden_size,
    )
    per_layer = config.kv_elements_per_token * size
    return Needs(
        weights=weights + config.max_position * config.head_dim * 4,
        load_peak=widest * size + _LOAD_CHUNK,
        baseline=baseline,
        kv_bytes_per_token=per_layer * config.num_layers,
        kv_bytes_per_token_layer=per_layer,
        activation_bytes_per_token=_activations(config) * max(size, 4),
        vocab_size=config.vocab_size,
        gather_tokens=GROUP_TOKENS,
        max_position=config.max_position,
        mask_itemsize=size,
    )


def _activations(config: DecoderConfig) -> int:
    """Elements that one token holds at the widest point of a layer, with what is freed a moment later."""
    attention = 2 * (config.query_size + 2 * config.kv_size) + 2 * config.query_size
    mlp = 4 * config.intermediate_size
    return 4 * config.hidden_size + max(attention, mlp)
