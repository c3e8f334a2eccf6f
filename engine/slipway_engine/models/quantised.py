"""What quantised weights are worth: rounded to the integers of a mode, and multiplied as floats again.

The reference of the native int8 and int4 modes, on every device: the same groups of 32 along a row, the same
scales in float16, the same integers. Only inputs differ: here they stay floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

GROUP = 32


def int8(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return signed bytes and scales of float32 groups [.., 32]: value = byte * scale (GGML's Q8_0)."""
    scales = (groups.abs().amax(dim=-1, keepdim=True) / 127).clamp_(max=65504).half().float()
    integers = torch.where(scales > 0, groups / scales, 0.0).round_().clamp_(-127, 127)
    return integers, scales


def int4(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return nibbles, scales and minima of float32 groups: value = nibble * scale + minimum (GGML's Q4_1)."""
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    scales, low = ((high - low) / 15).half().float(), low.half().float()
    integers = torch.where(scales > 0, (groups - low) / scales, 0.0).round_().clamp_(0, 15)
    return integers, scales, low


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rounds weights to the integers of `mode`, "int8" or "int4", and back to floats."""

    mode: str

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Return `weight` [rows, width] as the mode keeps it; a width that 32 does not divide stays."""
        if weight.shape[1] % GROUP:
            return weight
        groups = weight.float().view(weight.shape[0], -1, GROUP)
        if self.mode == "int8":
            integers, scales = int8(groups)
            values = integers.mul_(scales)
        else:
            integers, scales, low = int4(groups)
            values = integers.mul_(scales).add_(low)
        return values.view(weight.shape).to(weight.dtype)
