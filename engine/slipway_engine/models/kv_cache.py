"""A layer's keys and values in blocks: as they are computed, in a narrower float type, or in bytes.

A row is one token: its keys, then its values, then, in bytes, the scales of both. Keys and values are read
back as they were kept, by the token's own step too, so that a result does not depend on where chunks end.
"""

from __future__ import annotations

import torch

from slipway_engine.models.config import AttentionLayer

_SCALE_BYTES = 4
_LARGEST = 127


def row_elements(layer: AttentionLayer, dtype: torch.dtype) -> int:
    """Return the elements of `dtype` that one token takes; bytes bring a float32 scale for each head."""
    return layer.elements + (2 * layer.kv_heads * _SCALE_BYTES if dtype is torch.int8 else 0)


def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last dimension in [-127, 127], and the scale of each row, its largest magnitude / 127."""
    rows = rows.float()
    scales = rows.abs().amax(dim=-1, keepdim=True) / _LARGEST
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    return (rows * inverse).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8), scales


class LayerCache:
    """One layer's cache over `memory` [blocks, block_size, row elements]; block 0 pads.

    `dtype` is what attention computes in. Where `exact`, what is read is what was written, to the bit.
    """

    def __init__(self, layer: AttentionLayer, memory: torch.Tensor) -> None:
        self.layer = layer
        self.memory = memory
        self._blocks = memory.flatten(1)
        self._rows = memory.flatten(0, 1)
        self._packed = memory.dtype is torch.int8

    def exact(self, dtype: torch.dtype) -> bool:
        """Say whether rows of `dtype` are kept as they are."""
        return self.memory.dtype is dtype

    def write(self, slots: torch.Tensor, rows: torch.Tensor) -> None:
        """Keep `rows` [tokens, keys and values] at `slots`."""
        if self._packed:
            rows = self._pack(rows)
        self._rows.index_copy_(0, slots, rows.to(self.memory.dtype))

    def read(self, blocks: torch.Tensor, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [rows, kv heads, width, dim] of the blocks [rows, blocks]."""
        taken = self._blocks.index_select(0, blocks.view(-1)).view(blocks.shape[0], width, -1)
        if self._packed:
            return self._unpack(taken, dtype)
        keys, values = self._split(taken.to(dtype))
        return keys.transpose(1, 2), values.transpose(1, 2)

    def _split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views [.., kv heads, dim] of the keys and the values of rows [.., elements]."""
        keys, values = rows[..., : self.layer.key_size], rows[..., self.layer.key_size : self.layer.elements]
        shape = (*rows.shape[:-1], self.layer.kv_heads)
        return keys.view(*shape, self.layer.key_dim), values.view(*shape, self.layer.value_dim)

    def _pack(self, rows: torch.Tensor) -> torch.Tensor:
        (keys, key_scales), (values, value_scales) = map(quantise, self._split(rows))
        scales = torch.cat([key_scales, value_scales], dim=1).flatten(1)
        return torch.cat([keys.flatten(1), values.flatten(1), scales.view(torch.int8)], dim=1)

    def _unpack(self, taken: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (part.transpose(1, 2).float() for part in self._split(taken))
        scales = taken[..., self.layer.elements :].contiguous().view(torch.float32).transpose(1, 2)
        keys.mul_(scales[:, : self.layer.kv_heads, :, None])
        values.mul_(scales[:, self.layer.kv_heads :, :, None])
        return keys.to(dtype), values.to(dtype)
