"""Counter-based randomness: noise is a hash of (stream, output position, token), never a generator's state.

The same request draws the same noise in any batch, after a preemption, and on any device: only 32-bit integer
arithmetic, which wraps alike everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SPREAD, _MULTIPLY_1, _MULTIPLY_2 = -1640531535, -2048144789, -1028477387  # odd, as signed 32-bit


def stream_of(*parts: object) -> int:
    """Return the 64-bit name of a random stream."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(sha256(text).digest()[:8], "little")


def keys(streams: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """Return two 32-bit keys [rows, 2] of each (stream, position)."""
    counter = np.array(positions, dtype=np.uint64) + np.uint64(1)
    mixed = np.array(streams, dtype=np.uint64) + counter * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    mixed ^= mixed >> np.uint64(31)
    return torch.from_numpy(mixed.view(np.int32).reshape(-1, 2))


def gumbel(row_keys: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Return standard Gumbel noise for each row's key and each token id (int32, [rows or 1, tokens])."""
    bits = token_ids * _SPREAD + row_keys[:, :1]
    _shift_xor_(bits, 16)
    bits.mul_(_MULTIPLY_1).bitwise_xor_(row_keys[:, 1:])
    _shift_xor_(bits, 13)
    bits.mul_(_MULTIPLY_2)
    _shift_xor_(bits, 16)
    # 23 bits and a half: exact in float32 and never 0 or 1, so that both logarithms are finite.
    uniform = bits.bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def _shift_xor_(bits: torch.Tensor, by: int) -> None:
    """Xor with the bits shifted right as if they were unsigned."""
    bits.bitwise_xor_((bits >> by).bitwise_and_((1 << (32 - by)) - 1))
