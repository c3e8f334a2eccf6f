"""Rotary embedding as one complex multiplication.

Each pair of a head's elements is one complex number, turned by an angle that grows with the position. Weights
are laid out at load time so that the pair lies side by side; dot products of queries and keys don't see it.
"""

from __future__ import annotations

import math

import torch

from slipway_engine.models.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """Return the angle per position of each of the `head_dim / 2` pairs."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3(frequencies, rope)
    if rope.kind == "factors":
        return frequencies / torch.tensor(rope.factors)
    return frequencies


def rotations(rope: RopeConfig, head_dim: int, positions: int) -> torch.Tensor:
    """Return the table [positions, 1, head_dim / 2] of unit complex numbers."""
    angles = torch.outer(torch.arange(positions).float(), inverse_frequencies(rope, head_dim))
    return torch.polar(torch.ones_like(angles), angles).unsqueeze(1)


def rotate_(heads: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn `heads` [tokens, heads, head_dim] in place by `turns` [tokens, 1, head_dim / 2]."""
    pairs = (*heads.shape[:-1], heads.shape[-1] // 2, 2)
    if heads.dtype == torch.float32:
        torch.view_as_complex(heads.view(pairs)).mul_(turns)
        return
    wide = torch.view_as_complex(heads.float().view(pairs))
    heads.copy_(torch.view_as_real(wide * turns).flatten(-2))


def pair_up(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder the rows of query or key weights from halves (i, i + D/2) to pairs (2i, 2i + 1)."""
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def halve(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Undo `pair_up`."""
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def _llama3(frequencies: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Scale wavelengths longer than the trained context, keep short ones, blend between."""
    wavelengths = 2 * math.pi / frequencies
    original = rope.original_max_position
    ramp = original / wavelengths - rope.low_freq_factor
    blend = (ramp / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies
