"""Rotary embedding as one complex multiplication.

Each pair of a head's elements is one complex number, turned by an angle that grows with the position. Weights
are laid out at load time so that the pair lies side by side; dot products of queries and keys don't see it.
"""

from __future__ import annotations

import math

import torch

from slipway_engine.models.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int, positions: int = 0) -> torch.Tensor:
    """Return the angle per position of each pair that turns, where `positions` may be asked for."""
    width = rope.turned(head_dim)
    exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3(frequencies, rope)
    if rope.kind == "yarn":
        return _yarn(frequencies, rope, width)
    if rope.kind == "factors":
        return frequencies / torch.tensor(rope.factors)
    if rope.kind == "longrope":
        # One choice for a deployment: cached keys were turned once, and must fit all that come later.
        long = positions > rope.original_max_position
        return frequencies / torch.tensor(rope.long_factors if long else rope.factors)
    return frequencies


def rotations(rope: RopeConfig, head_dim: int, positions: int) -> torch.Tensor:
    """Return the table [positions, 1, pairs that turn] of complex numbers, units times the magnitude."""
    frequencies = inverse_frequencies(rope, head_dim, positions)
    angles = torch.outer(torch.arange(positions).float(), frequencies)
    return torch.polar(torch.full_like(angles, rope.magnitude), angles).unsqueeze(1)


def rotate_(heads: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn the first pairs of `heads` [tokens, heads, head_dim] in place by `turns` [tokens, 1, pairs]."""
    pairs = heads.view(*heads.shape[:-1], heads.shape[-1] // 2, 2)[..., : turns.shape[-1], :]
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(turns)
        return
    pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()) * turns))


def pair_up(rows: torch.Tensor, head_dim: int, turned: int | None = None) -> torch.Tensor:
    """Reorder the rows of query or key weights from halves (i, i + D/2) to pairs (2i, 2i + 1).

    Only the first `turned` rows of each head take part, where not all do.
    """
    if turned is not None and turned < head_dim:
        heads = rows.reshape(-1, head_dim, *rows.shape[1:])
        first = pair_up(heads[:, :turned].flatten(0, 1), turned).view(-1, turned, *rows.shape[1:])
        return torch.cat([first, heads[:, turned:]], dim=1).view(rows.shape)
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


def _yarn(frequencies: torch.Tensor, rope: RopeConfig, width: int) -> torch.Tensor:
    """Keep pairs that turn often over the trained context, scale those that hardly do, blend between."""

    def pair(turns: float) -> float:
        return (
            width * math.log(rope.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        )

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    slope = high - low or 0.001
    blend = ((torch.arange(width // 2).float() - low) / slope).clamp(0, 1)
    return blend * frequencies / rope.factor + (1 - blend) * frequencies
