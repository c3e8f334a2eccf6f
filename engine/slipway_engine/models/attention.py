"""Attention over the paged cache in plain torch: the reference on every device, and the CPU's own path.

Keys and values of a token lie together, one row of the cache. Query heads are viewed as [.., kv heads, group,
head_dim], so that the heads that share a key need no copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention

from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.context import AttentionContext, Chunk, Gathered

Attend: TypeAlias = Callable[[int, torch.Tensor], torch.Tensor]
"""Takes a layer's number and its heads [tokens, q + k + v heads, head_dim]; returns [tokens, q size]."""

SCORE_PAIRS = 1 << 19
"""Most pairs of a query and a key whose scores lie in memory at once, where they must be capped."""

SCORE_COPIES = 4
"""float32 copies of the scores that capping holds: the scores, their softmax, a rounding, the mask."""


class PagedAttention:
    """Writes a step's keys and values into the cache, and reads each query's answer from it.

    `caches` holds one tensor a layer, [blocks, block_size, 2 * kv heads * head_dim]; block 0 pads.
    """

    def __init__(self, config: DecoderConfig, caches: Sequence[torch.Tensor]) -> None:
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.group = config.num_heads // config.num_kv_heads
        self.windows = config.layer_windows
        self.scale = config.attention_scale or 1 / sqrt(config.head_dim)
        self.softcap = config.attention_softcap
        self.blocks = [cache.flatten(1) for cache in caches]
        self.rows = [cache.flatten(0, 1) for cache in caches]

    def bind(self, context: AttentionContext) -> Attend:
        """Return the attention of one step."""
        return lambda layer, heads: self.attend(layer, heads, context)

    def attend(self, layer: int, heads: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """Store the step's keys and values in `layer`'s cache and answer its queries."""
        self.rows[layer].index_copy_(0, context.slots, heads[:, self.heads :].flatten(1))
        parts = [self._decode(layer, heads[group.rows], group) for group in context.decodes]
        parts += [self._chunk(layer, heads[chunk.gathered.rows], chunk) for chunk in context.chunks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, layer: int, heads: torch.Tensor, group: Gathered) -> torch.Tensor:
        count = heads.shape[0]
        query = heads[:, : self.heads].view(count, self.kv_heads, self.group, self.head_dim)
        key, value = self._gather(layer, group)
        mask = group.mask(self._window(layer, group.width))
        if self.softcap:
            mixed = self._capped(query, key, value, mask)
        else:
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        return mixed.reshape(count, -1)

    def _chunk(self, layer: int, heads: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        """Attend with [kv heads, group] as batch and heads; keys are expanded, not copied."""
        count, gathered = heads.shape[0], chunk.gathered
        query = heads[:, : self.heads].view(count, self.kv_heads, self.group, -1).permute(1, 2, 0, 3)
        window = self._window(layer, gathered.width)
        if chunk.fresh and window is None and not self.softcap:
            kv = heads[:, self.heads :].view(count, 2, self.kv_heads, -1).permute(1, 2, 0, 3)
            key, value, mask = kv[0], kv[1], None
        else:
            key, value = (part[0] for part in self._gather(layer, gathered))
            mask = gathered.mask(window)[0]
        if self.softcap and mask is not None:
            mixed = self._capped_chunk(query, key, value, mask[0])
        else:
            key, value = self._expand(key), self._expand(value)
            mixed = scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, scale=self.scale
            )
        return mixed.permute(2, 0, 1, 3).reshape(count, -1)

    def _capped_chunk(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attend a few queries at a time, which bounds the scores; `mask` is [queries, width]."""
        parts, step = [], max(1, SCORE_PAIRS // key.shape[1])
        for start in range(0, query.shape[2], step):
            part = query[:, :, start : start + step]
            seen = mask[start : start + step].repeat(self.group, 1)
            parts.append(self._capped(part.flatten(1, 2), key, value, seen).view(part.shape))
        return torch.cat(parts, dim=2)

    def _capped(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        scores = (query @ key.transpose(-1, -2)).float()
        scores = scores.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap).add_(mask)
        return scores.softmax(dim=-1).to(value.dtype) @ value

    def _gather(self, layer: int, gathered: Gathered) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [rows, kv heads, width, head_dim] of the blocks."""
        blocks = gathered.blocks
        taken = self.blocks[layer].index_select(0, blocks.view(-1))
        kv = taken.view(blocks.shape[0], gathered.width, 2, self.kv_heads, self.head_dim)
        return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)

    def _expand(self, shared: torch.Tensor) -> torch.Tensor:
        return shared.unsqueeze(1).expand(-1, self.group, -1, -1)

    def _window(self, layer: int, width: int) -> int | None:
        """Return the layer's window, or None where the context is too short to feel it."""
        window = self.windows[layer]
        return window if window is not None and window < width else None
