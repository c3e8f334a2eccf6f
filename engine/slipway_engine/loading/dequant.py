"""GGML's packed blocks unpacked to float32: one vectorised function for each type, exact to the bit.

Each takes the blocks of a tensor as rows of bytes and returns the elements as rows of float32. Layouts follow
the GGML specification of each type; nibbles hold the first half of a group low and the second half high.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.loading.gguf import Bytes, GGUFFile, TensorInfo

Floats = npt.NDArray[np.float32]

CHUNK_ELEMENTS = 1 << 20  # bounds the temporaries of a large tensor, and keeps them near the cache


def dequantise(blocks: Bytes, type_name: str) -> Floats:
    """Return the elements of `blocks` ([blocks, bytes per block]) as [blocks, elements per block]."""
    unpack = _UNPACK.get(type_name)
    if unpack is None:
        known = ", ".join(_UNPACK)
        raise ModelUnsupported(
            f"the tensor type {type_name} is not supported; convert the model to one of {known}."
        )
    return unpack(blocks)


def read_tensor(file: GGUFFile, name: str, dtype: torch.dtype) -> torch.Tensor:
    """Return one tensor of `file` in `dtype`; chunks keep the peak near the result."""
    info = file.tensors[name]
    out = torch.empty(info.shape, dtype=dtype)
    read_into(file, info, out.view(-1))
    return out


def read_into(
    file: GGUFFile, info: TensorInfo, flat: torch.Tensor, first: int = 0, stop: int | None = None
) -> None:
    """Unpack the rows [first, stop) of the tensor `info` into `flat`, a one-dimensional tensor."""
    if info.type.name not in _UNPACK:
        raise ModelUnsupported(
            f"{file.path}: the tensor {info.name!r} has the type {info.type.name}, which is not supported; "
            f"convert the model to one of {', '.join(_UNPACK)}."
        )
    width = prod(info.shape[1:])
    at, end = first * width, (info.shape[0] if stop is None else stop) * width
    if at % info.type.block or end % info.type.block:
        raise ModelCorrupt(
            f"{file.path}: rows of the tensor {info.name!r} share a block of {info.type.name}."
        )
    packed = info.type.size
    stored = file.raw(info.name)[at // info.type.block * packed : end // info.type.block * packed]
    blocks = stored.reshape(-1, packed)
    step = max(1, CHUNK_ELEMENTS // info.type.block)
    for start in range(0, len(blocks), step):
        values = dequantise(blocks[start : start + step], info.type.name).reshape(-1)
        at = start * info.type.block
        flat[at : at + len(values)].copy_(torch.from_numpy(values))


def read_part(
    file: GGUFFile, info: TensorInfo, out: torch.Tensor, entry: int, rows: slice, columns: slice
) -> None:
    """Unpack the part [rows, columns] of a matrix, or of the entry of a stack of matrices, into `out`.

    A vector has rows alone. Columns that share a block with others raise `ModelUnsupported`.
    """
    if info.type.name not in _UNPACK:
        raise ModelUnsupported(f"{file.path}: the tensor {info.name!r} has the type {info.type.name}.")
    block, size = info.type.block, info.type.size
    if out.dim() == 1:
        read_into(file, info, out, rows.start, rows.stop)
        return
    height, width = info.shape[-2:]
    if columns.start % block or columns.stop % block or width % block:
        raise ModelUnsupported(
            f"{file.path}: columns {columns.start} to {columns.stop} of the tensor {info.name!r} would cut a "
            f"block of {block} {info.type.name} weights; choose another tensor_parallel_size."
        )
    stored = file.raw(info.name).reshape(-1, height, width // block * size)[entry]
    stored = stored[rows, columns.start // block * size : columns.stop // block * size]
    step = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, len(stored), step):
        some = stored[start : start + step]
        values = dequantise(some.reshape(-1, size), info.type.name)
        out[start : start + step].copy_(torch.from_numpy(values.reshape(len(some), -1)))


def _f32(blocks: Bytes) -> Floats:
    return np.array(blocks).view("<f4").astype(np.float32, copy=False)


def _f16(blocks: Bytes) -> Floats:
    return _half(blocks)


def _bf16(blocks: Bytes) -> Floats:
    widened = np.array(blocks).view("<u2").astype(np.uint32) << np.uint32(16)
    return widened.view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    scale, packed = _half(blocks[:, :2]), blocks[:, 2:]
    return scale * (_nibbles(packed).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    scale, low, packed = _half(blocks[:, :2]), _half(blocks[:, 2:4]), blocks[:, 4:]
    return scale * _nibbles(packed).astype(np.float32) + low


def _q5_0(blocks: Bytes) -> Floats:
    scale, high, packed = _half(blocks[:, :2]), blocks[:, 2:6], blocks[:, 6:]
    return scale * ((_nibbles(packed) | _fifth_bits(high)).astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    scale, low = _half(blocks[:, :2]), _half(blocks[:, 2:4])
    high, packed = blocks[:, 4:8], blocks[:, 8:]
    return scale * (_nibbles(packed) | _fifth_bits(high)).astype(np.float32) + low


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks[:, :2]) * np.array(blocks[:, 2:]).view(np.int8).astype(np.float32)


def _iq4_nl(blocks: Bytes) -> Floats:
    """Nibbles that choose among 16 levels, which lie closer together near zero."""
    levels: Floats = _LEVELS[_nibbles(blocks[:, 2:])]
    return _half(blocks[:, :2]) * levels


def _q2_k(blocks: Bytes) -> Floats:
    """256 elements in 16 groups of 16; a byte holds a group's 4-bit scale and 4-bit minimum."""
    count = len(blocks)
    packed, scale, low = blocks[:, :16], _half(blocks[:, 80:82]), _half(blocks[:, 82:84])
    values = _pairs_of_bits(blocks[:, 16:80]).astype(np.float32)
    scales, lows = (packed & 0x0F).astype(np.float32), (packed >> 4).astype(np.float32)
    unpacked = (scale * scales)[:, :, None] * values - (low * lows)[:, :, None]
    return unpacked.reshape(count, 256)


def _q3_k(blocks: Bytes) -> Floats:
    """256 elements in 16 groups of 16; the third bits lie apart, and a cleared one takes 4 away."""
    count = len(blocks)
    third = _bit_planes(blocks[:, :32]).reshape(count, 16, 16)
    values = _pairs_of_bits(blocks[:, 32:96]).astype(np.float32) + 4 * third.astype(np.float32) - 4
    low = np.concatenate([blocks[:, 96:104] & 0x0F, blocks[:, 96:104] >> 4], axis=1)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    high = ((blocks[:, None, 104:108] >> shifts) & 3).reshape(count, 16)
    six = (low | (high << np.uint8(4))).astype(np.float32) - 32
    unpacked: Floats = (_half(blocks[:, 108:]) * six)[:, :, None] * values
    return unpacked.reshape(-1, 256)


def _q4_k(blocks: Bytes) -> Floats:
    """256 elements in 8 groups of 32; each group has a 6-bit scale and a 6-bit minimum."""
    count = len(blocks)
    scale, low = _half(blocks[:, :2]), _half(blocks[:, 2:4])
    scales, lows = _six_bit_pairs(blocks[:, 4:16])
    packed = blocks[:, 16:].reshape(count, 4, 32)
    values = np.stack([packed & 0x0F, packed >> 4], axis=2).reshape(count, 8, 32).astype(np.float32)
    unpacked = (scale * scales)[:, :, None] * values - (low * lows)[:, :, None]
    return unpacked.reshape(count, 256)


def _q5_k(blocks: Bytes) -> Floats:
    """Like Q4_K, with a fifth bit of each element that lies apart."""
    count = len(blocks)
    scale, low = _half(blocks[:, :2]), _half(blocks[:, 2:4])
    scales, lows = _six_bit_pairs(blocks[:, 4:16])
    packed = blocks[:, 48:].reshape(count, 4, 32)
    four = np.stack([packed & 0x0F, packed >> 4], axis=2).reshape(count, 8, 32)
    values = (four | (_bit_planes(blocks[:, 16:48]) << np.uint8(4))).astype(np.float32)
    unpacked: Floats = (scale * scales)[:, :, None] * values - (low * lows)[:, :, None]
    return unpacked.reshape(count, 256)


def _q6_k(blocks: Bytes) -> Floats:
    """256 elements in 16 groups of 16; low 4 and high 2 bits lie apart, scales are signed bytes."""
    count = len(blocks)
    low = blocks[:, :128].reshape(count, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    high = blocks[:, 128:192].reshape(count, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    six = (low & 0x0F).reshape(count, 8, 32) | ((high & 3) << 4).reshape(count, 8, 32)
    values = (six.astype(np.float32) - 32).reshape(count, 16, 16)
    scales = _half(blocks[:, 208:]) * np.array(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return (scales[:, :, None] * values).reshape(count, 256)


def _half(raw: Bytes) -> Floats:
    """Read little-endian float16; signalling values in a damaged file must not warn."""
    with np.errstate(invalid="ignore"):
        return np.array(raw).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _fifth_bits(high: Bytes) -> Bytes:
    """Return bit i of each 32-bit word as 0 or 16 for element i."""
    return np.unpackbits(high, axis=1, bitorder="little") << np.uint8(4)


def _pairs_of_bits(packed: Bytes) -> Bytes:
    """Unpack 64 bytes of four 2-bit elements each to [blocks, 16, 16]; 32 bytes hold four runs of 32."""
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return ((packed.reshape(-1, 2, 1, 32) >> shifts) & np.uint8(3)).reshape(-1, 16, 16)


def _bit_planes(packed: Bytes) -> Bytes:
    """Return bit i of 32 bytes as the run i of 32 elements: [blocks, 8, 32]."""
    return (packed[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """Unpack the 12 bytes that hold 8 scales and 8 minima of 6 bits each."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 2) & 0x30)], axis=1)
    lows = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 2) & 0x30)], axis=1)
    return scales.astype(np.float32), lows.astype(np.float32)


_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)

_UNPACK: dict[str, Callable[[Bytes], Floats]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "IQ4_NL": _iq4_nl,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}

SUPPORTED_TYPES = tuple(_UNPACK)
