"""Which tokens of a step attend to which cached blocks: the attention metadata, apart from the model.

A step's tokens lie flattened, one row of `Span` each request. Rows with a single query token are answered
together, padded to the longest of a group; the others (prefill chunks) one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Places: TypeAlias = npt.NDArray[np.int64]

GROUP_TOKENS = 1 << 15
"""Most cached tokens that one group gathers; it bounds the workspace."""

_SPLIT_WASTE = 600
"""Padding tokens that cost as much as starting another group (measured: 45 us against 80 ns a token)."""


@dataclass(frozen=True, slots=True)
class Span:
    """One request's part of a step: its new tokens are [start, start + length) of its sequence."""

    start: int
    length: int
    blocks: Sequence[int]

    @property
    def end(self) -> int:
        """Cached tokens after the step."""
        return self.start + self.length


@dataclass(slots=True)
class Gathered:
    """Rows that read cached tokens through `blocks` [rows, blocks], `width` tokens each.

    `positions` [rows, queries] are those of the query tokens; a query sees keys at or before its own.
    """

    rows: slice
    blocks: torch.Tensor
    width: int
    positions: torch.Tensor
    dtype: torch.dtype
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor:
        """Return the additive mask [rows, 1, queries, width] of a window, made once a step."""
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def _make_mask(self, window: int | None) -> torch.Tensor:
        keys = torch.arange(self.width, device=self.positions.device)
        queries = self.positions[:, None, :, None]
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=hidden.device)
        return mask.masked_fill_(hidden, float("-inf"))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A prefill chunk; `fresh` where it is the start of its sequence and needs no cached token."""

    gathered: Gathered
    fresh: bool


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """All that attention must know about one step. `slots` is each token's place in the cache."""

    slots: torch.Tensor
    positions: torch.Tensor
    decodes: tuple[Gathered, ...]
    chunks: tuple[Chunk, ...]


def build(
    spans: Sequence[Span], block_size: int, device: torch.device, dtype: torch.dtype
) -> AttentionContext:
    """Lay out a step. `spans` must hold the single-token rows first, longest context first."""
    singles = 0
    while singles < len(spans) and spans[singles].length == 1:
        singles += 1
    decodes = tuple(
        _decode_group(spans[rows], rows, block_size, device, dtype)
        for rows in _groups([span.end for span in spans[:singles]])
    )
    chunks, at = [], singles
    for span in spans[singles:]:
        chunks.append(_chunk(span, slice(at, at + span.length), block_size, device, dtype))
        at += span.length
    slots, positions = _places(spans, block_size)
    return AttentionContext(
        torch.from_numpy(slots).to(device), torch.from_numpy(positions).to(device), decodes, tuple(chunks)
    )


def _groups(lengths: Sequence[int]) -> list[slice]:
    """Cut rows sorted by falling length where padding would cost more than another group."""
    groups: list[slice] = []
    first, waste = 0, 0
    for row, length in enumerate(lengths):
        waste += lengths[first] - length
        if waste > _SPLIT_WASTE or (row - first + 1) * lengths[first] > GROUP_TOKENS:
            if row > first:
                groups.append(slice(first, row))
            first, waste = row, 0
    if lengths:
        groups.append(slice(first, len(lengths)))
    return groups


def _decode_group(
    spans: Sequence[Span], rows: slice, block_size: int, device: torch.device, dtype: torch.dtype
) -> Gathered:
    width = -(-spans[0].end // block_size)
    table = np.zeros((len(spans), width), dtype=np.int64)
    for row, span in zip(table, spans, strict=True):
        used = -(-span.end // block_size)
        row[:used] = span.blocks[:used]
    positions = np.array([[span.start] for span in spans], dtype=np.int64)
    return Gathered(
        rows,
        torch.from_numpy(table).to(device),
        width * block_size,
        torch.from_numpy(positions).to(device),
        dtype,
    )


def _chunk(span: Span, rows: slice, block_size: int, device: torch.device, dtype: torch.dtype) -> Chunk:
    used = -(-span.end // block_size)
    blocks = torch.tensor([list(span.blocks[:used])], dtype=torch.int64, device=device)
    positions = torch.arange(span.start, span.end, device=device)[None]
    return Chunk(Gathered(rows, blocks, used * block_size, positions, dtype), fresh=span.start == 0)


def _places(spans: Sequence[Span], block_size: int) -> tuple[Places, Places]:
    """Return every token's cache slot and position."""
    slots: list[npt.ArrayLike] = []
    positions: list[npt.ArrayLike] = []
    for span in spans:
        if span.length == 1:
            slots.append([span.blocks[span.start // block_size] * block_size + span.start % block_size])
            positions.append([span.start])
        else:
            where = np.arange(span.start, span.end)
            blocks = np.array(span.blocks, dtype=np.int64)
            slots.append(blocks[where // block_size] * block_size + where % block_size)
            positions.append(where)
    return np.concatenate(slots, dtype=np.int64), np.concatenate(positions, dtype=np.int64)
