"""Attention over the paged cache in plain torch: the reference on every device, and the CPU's own path.

Keys and values of a token lie together, one row of the cache. Query heads are viewed as [.., kv heads, group,
head_dim], so that the heads that share a key need no copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention

from slipway_engine.models.config import AttentionLayer
from slipway_engine.models.context import AttentionContext, Chunk, Gathered
from slipway_engine.models.kv_cache import LayerCache

Attend: TypeAlias = Callable[[int, torch.Tensor], torch.Tensor]
"""Takes a layer's number and its heads [tokens, q + k + v heads, head_dim]; returns [tokens, q size]."""

SCORE_PAIRS = 1 << 19
"""Most pairs of a query and a key whose scores lie in memory at once, where they must be capped."""

SCORE_COPIES = 4
"""float32 copies of the scores that capping holds: the scores, their softmax, a rounding, the mask."""


class HasLayers(Protocol):
    """A model whose layers attend."""

    @property
    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """Each layer's attention."""


class PagedAttention:
    """Writes a step's keys and values into the cache, and reads each query's answer from it.

    `caches` holds one tensor for each place that layers have in a block, [blocks, block_size, row elements];
    block 0 pads. `places` are the layers' (group, place); without, all are one group. A type other than that
    of the heads is one that keys and values are kept in, int8 with a scale for each token and head.
    """

    def __init__(
        self,
        model: HasLayers,
        caches: Sequence[torch.Tensor],
        places: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.layers = model.attention_layers
        places = places or [(0, place) for place in range(len(caches))]
        self.group_of = [group for group, _ in places]
        self.groups = max(self.group_of) + 1
        self.caches = [
            LayerCache(layer, caches[place]) for layer, (_, place) in zip(self.layers, places, strict=True)
        ]
        self._memories = caches

    def bind(self, *contexts: AttentionContext) -> StepAttention:
        """Return the attention of one step, laid out for each group."""
        return StepAttention(self, contexts)

    def answer(
        self, layer: int, query: torch.Tensor, kv: torch.Tensor, context: AttentionContext
    ) -> torch.Tensor:
        """Store `kv` [tokens, keys and values], and answer `query` [tokens, heads, key dim]."""
        self.caches[layer].write(context.slots, kv)
        parts = [self._decode(layer, query[group.rows], group) for group in context.decodes]
        for chunk in context.chunks:
            rows = chunk.gathered.rows
            parts.append(self._chunk(layer, query[rows], kv[rows], chunk))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks (source, target)."""
        sources, targets = torch.tensor(pairs, device=self._memories[0].device).unbind(1)
        for memory in self._memories:
            memory[targets] = memory[sources]

    def _decode(self, layer: int, query: torch.Tensor, group: Gathered) -> torch.Tensor:
        spec, count = self.layers[layer], query.shape[0]
        query = query.reshape(count, spec.kv_heads, -1, spec.key_dim)
        key, value = self.caches[layer].read(group.blocks, group.width, query.dtype)
        mask = group.mask(_window(spec, group.width))
        if spec.softcap:
            mixed = _capped(spec, query, key, value, mask)
        else:
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=spec.scale)
        return mixed.reshape(count, -1)

    def _chunk(self, layer: int, query: torch.Tensor, kv: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        """Attend with [kv heads, group] as batch and heads; keys are expanded, not copied."""
        spec, cache, gathered = self.layers[layer], self.caches[layer], chunk.gathered
        count, group = query.shape[0], spec.heads // spec.kv_heads
        query = query.reshape(count, spec.kv_heads, group, -1).permute(1, 2, 0, 3)
        window = _window(spec, gathered.width)
        if chunk.fresh and window is None and not spec.softcap and cache.exact(query.dtype):
            key = kv[:, : spec.key_size].view(count, spec.kv_heads, -1).transpose(0, 1)
            value = kv[:, spec.key_size :].view(count, spec.kv_heads, -1).transpose(0, 1)
            mask = None
        else:
            key, value = (part[0] for part in cache.read(gathered.blocks, gathered.width, query.dtype))
            mask = gathered.mask(window)[0]
        if spec.softcap and mask is not None:
            mixed = _capped_chunk(spec, query, key, value, mask[0])
        else:
            key, value = (part.unsqueeze(1).expand(-1, group, -1, -1) for part in (key, value))
            mixed = scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, scale=spec.scale
            )
        return mixed.permute(2, 0, 1, 3).reshape(count, -1)


class StepAttention:
    """The attention of one step: called with fused heads, or asked to `answer` queries by themselves."""

    def __init__(self, paged: PagedAttention, contexts: Sequence[AttentionContext]) -> None:
        self._paged = paged
        self._contexts = contexts

    def __call__(self, layer: int, heads: torch.Tensor) -> torch.Tensor:
        """Store and answer heads [tokens, q + k + v heads, head_dim]."""
        queries = self._paged.layers[layer].heads
        return self.answer(layer, heads[:, :queries], heads[:, queries:].flatten(1))

    def answer(self, layer: int, query: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        """Store `kv` [tokens, keys and values] and answer `query` [tokens, heads, key dim]."""
        return self._paged.answer(layer, query, kv, self._contexts[self._paged.group_of[layer]])


def _capped_chunk(
    spec: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attend a few queries at a time, which bounds the scores; `mask` is [queries, width]."""
    parts, step = [], max(1, SCORE_PAIRS // key.shape[1])
    for start in range(0, query.shape[2], step):
        part = query[:, :, start : start + step]
        seen = mask[start : start + step].repeat(part.shape[1], 1)
        mixed = _capped(spec, part.flatten(1, 2), key, value, seen)
        parts.append(mixed.view(*part.shape[:3], spec.value_dim))
    return torch.cat(parts, dim=2)


def _capped(
    spec: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    scores = (query @ key.transpose(-1, -2)).float()
    scores = scores.mul_(spec.scale / spec.softcap).tanh_().mul_(spec.softcap).add_(mask)
    return scores.softmax(dim=-1).to(value.dtype) @ value


def _window(spec: AttentionLayer, width: int) -> int | None:
    """Return the layer's window, or None where the context is too short to feel it."""
    window = spec.window
    return window if window is not None and window < width else None
