"""Rotation by complex pairs equals rotation by halves, once the rows are paired up."""

from __future__ import annotations

import torch

from slipway_engine.models.config import RopeConfig
from slipway_engine.models.rope import halve, pair_up, rotate_, rotations


def _by_halves(heads: torch.Tensor, positions: int, theta: float) -> torch.Tensor:
    dim = heads.shape[-1]
    angles = torch.outer(torch.arange(positions).float(), theta ** (-torch.arange(0, dim, 2).float() / dim))
    cos, sin = angles.cos().repeat(1, 2)[:, None], angles.sin().repeat(1, 2)[:, None]
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def test_equals_rotation_by_halves() -> None:
    heads = torch.randn(40, 3, 16)
    flat = heads.reshape(40, -1).T
    paired = pair_up(flat, 16).T.reshape(40, 3, 16).contiguous()
    rotate_(paired, rotations(RopeConfig(5000.0), 16, 40))
    ours = halve(paired.reshape(40, -1).T, 16).T.reshape(40, 3, 16)
    torch.testing.assert_close(ours, _by_halves(heads, 40, 5000.0))


def test_pairing_is_undone() -> None:
    rows = torch.randn(48, 5)
    assert torch.equal(halve(pair_up(rows, 16), 16), rows)
    assert not torch.equal(pair_up(rows, 16), rows)
