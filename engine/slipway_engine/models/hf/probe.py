"""Proof, before a model serves, that its paged answers are its own: two texts in chunks, against each whole.

A state that the modelling keeps outside attention, or a position that it counts by itself, shows here.
"""

from __future__ import annotations

from typing import Any

import torch

from slipway_engine.errors import ModelUnsupported
from slipway_engine.models import context
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.config import ModelConfig
from slipway_engine.models.context import Span
from slipway_engine.models.hf.decoder import TransformersDecoder
from slipway_engine.models.hf.registry import NAME

_BLOCK = 4
_STEPS = (((1, 17), (0, 5)), ((0, 1), (1, 1)), ((0, 1), (1, 13)), ((1, 1), (0, 8)), ((1, 1), (0, 1)))
"""Steps of (text, tokens)."""

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest error of a row, relative to the row. 16-bit rows are judged by the median, as routers may tip."""


@torch.inference_mode()
def compare(decoder: TransformersDecoder, config: ModelConfig) -> None:
    """Raise ModelUnsupported where the chunks' logits are not those of the whole text."""
    generator = torch.Generator().manual_seed(0)
    length = min(33, config.max_position)
    texts = [torch.randint(0, config.vocab_size, (length,), generator=generator) for _ in range(2)]
    device = next(decoder.base.parameters()).device
    dtype = next(decoder.base.parameters()).dtype
    chunked = _chunked(decoder, config, [text.to(device) for text in texts], dtype)
    errors = []
    for text, logits in zip(texts, chunked, strict=True):
        whole = _whole(decoder.model, text.to(device)[: len(logits)])
        errors.append(
            torch.linalg.vector_norm(logits - whole, dim=1) / torch.linalg.vector_norm(whole, dim=1)
        )
    rows = torch.cat(errors)
    error = float(rows.max() if dtype is torch.float32 else rows.median())
    if not error <= _TOLERANCE[dtype]:
        raise ModelUnsupported(
            f"its logits in chunks differ by {error:.1%} from those of the whole text, so it keeps a state "
            "that attention does not show"
        )


def _whole(model: Any, text: torch.Tensor) -> torch.Tensor:
    model.set_attn_implementation("eager")
    try:
        logits: torch.Tensor = model(input_ids=text[None], use_cache=False).logits[0].float()
    finally:
        model.set_attn_implementation(NAME)
    return logits


def _chunked(
    decoder: TransformersDecoder, config: ModelConfig, texts: list[torch.Tensor], dtype: torch.dtype
) -> list[torch.Tensor]:
    """Return the logits of each text's tokens, as far as the steps go."""
    device = texts[0].device
    blocks = -(-len(texts[0]) // _BLOCK)
    tables = [[1 + 2 * block + text for block in range(blocks)] for text in range(len(texts))]
    caches = [
        torch.zeros(1 + 2 * blocks, _BLOCK, layer.elements, dtype=dtype, device=device)
        for layer in config.attention_layers
    ]
    paged, done = PagedAttention(config, caches), [0] * len(texts)
    logits: list[list[torch.Tensor]] = [[] for _ in texts]
    for step in _STEPS:
        taken = [(text, min(tokens, len(texts[text]) - done[text])) for text, tokens in step]
        taken = [(text, tokens) for text, tokens in taken if tokens]
        if not taken:
            break
        taken.sort(key=lambda part: (part[1] > 1, -done[part[0]]))
        spans = [Span(done[text], tokens, tables[text]) for text, tokens in taken]
        laid = context.build(spans, _BLOCK, device, dtype)
        ids = torch.cat([texts[text][done[text] : done[text] + tokens] for text, tokens in taken])
        rows = decoder.logits(decoder.forward(decoder.embed(ids), laid.positions, paged.bind(laid)))
        for (text, tokens), part in zip(
            taken, torch.split(rows, [tokens for _, tokens in taken]), strict=True
        ):
            logits[text].append(part)
            done[text] += tokens
    return [torch.cat(parts) for parts in logits]
