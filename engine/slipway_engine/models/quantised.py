"""What quantised weights are worth: rounded to the integers of a mode, and multiplied as floats again.

The reference of the native int8 and int4 modes, on every device: the same groups of 32 along a row, the same
scales in float16, the same integers. Only inputs differ: here they stay floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

GROUP = 32
_ELEMENTS = 1 << 20
"""Rounded at a time: looking for the best ends takes a dozen copies."""


def int8(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return signed bytes and scales of float32 groups [.., 32]: value = byte * scale (GGML's Q8_0)."""
    scales = (groups.abs().amax(dim=-1, keepdim=True) / 127).clamp_(max=65504).half().float()
    integers = torch.where(scales > 0, groups / scales, 0.0).round_().clamp_(-127, 127)
    return integers, scales


def int4(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return nibbles, scales and minima of float32 groups: value = nibble * scale + minimum (GGML's Q4_1).

    The ends are those of least square error: the best of a grid drawn in from the extremes, then scale and
    minimum fitted to the nibbles that were chosen, twice.
    """
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    span, best = high - low, _nibbles(groups, low, high)
    for below in _DRAWN_IN:
        for above in _DRAWN_IN:
            best = _better(_nibbles(groups, low + span * below, high - span * above), best)
    fitted = best
    for _ in range(2):
        off = fitted[0] - fitted[0].mean(dim=-1, keepdim=True)
        product = (off * (groups - groups.mean(dim=-1, keepdim=True))).sum(dim=-1, keepdim=True)
        scale = torch.where(product > 0, product / off.square().sum(dim=-1, keepdim=True), fitted[1])
        start = groups.mean(dim=-1, keepdim=True) - scale * fitted[0].mean(dim=-1, keepdim=True)
        fitted = _nibbles(groups, start, start + 15 * scale)
        best = _better(fitted, best)
    return best[0], best[1], best[2]


_DRAWN_IN = (0.0, 0.04, 0.08, 0.13)
_Nibbles: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _nibbles(groups: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> _Nibbles:
    """Return nibbles, scales, minima and square errors of groups cut between two ends."""
    scales, low = ((high - low) / 15).half().float(), low.half().float()
    integers = ((groups - low) * torch.where(scales > 0, 1 / scales, 0.0)).round_().clamp_(0, 15)
    error = (integers * scales + low - groups).square_().sum(dim=-1, keepdim=True)
    return integers, scales, low, error


def _better(one: _Nibbles, best: _Nibbles) -> _Nibbles:
    nearer = one[3] < best[3]
    integers, scales, low, error = (torch.where(nearer, a, b) for a, b in zip(one, best, strict=True))
    return integers, scales, low, error


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rounds weights to the integers of `mode`, "int8" or "int4", and back to floats."""

    mode: str

    @property
    def kept(self) -> frozenset[str]:
        """The stored types that stay as they are."""
        return frozenset({"Q4_0", "Q4_1"} if self.mode == "int4" else {"Q8_0", "Q4_0", "Q4_1"})

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Return `weight` [rows, width] as the mode keeps it; a width that 32 does not divide stays."""
        if weight.shape[1] % GROUP:
            return weight
        rounded = torch.empty_like(weight)
        rows = max(1, _ELEMENTS // weight.shape[1])
        for start in range(0, len(weight), rows):
            some = weight[start : start + rows]
            groups = some.float().view(len(some), -1, GROUP)
            rounded[start : start + rows] = self._values(groups).view(some.shape)
        return rounded

    def _values(self, groups: torch.Tensor) -> torch.Tensor:
        if self.mode == "int8":
            integers, scales = int8(groups)
            return integers.mul_(scales)
        integers, scales, low = int4(groups)
        return integers.mul_(scales).add_(low)
