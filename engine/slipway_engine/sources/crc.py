"""Cyclic redundancy checks as object stores publish them: CRC-32C (Google, Amazon) and CRC-64/NVME (Amazon).

The standard library has only CRC-32. A piece is cut into lanes that numpy steps through side by side, two
bytes a step; since a CRC is linear over GF(2), lanes are joined by multiplying with the matrix that appends
zeros (the way zlib's `crc32_combine` joins two). Parameters are those of the CRC RevEng catalogue.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
_LANES: Final = 8192
_PIECE: Final = 4 << 20


class Crc:
    """One reflected CRC whose register begins as ones and is inverted in the end. Immutable."""

    def __init__(self, width: int, polynomial: int) -> None:
        """`polynomial` is the reflected one, of `width` (32 or 64) bits."""
        self.width = width
        self._type: Any = np.uint32 if width == 32 else np.uint64
        self._ones = (1 << width) - 1
        self._polynomial = polynomial

    def of(self, data: bytes, crc: int = 0) -> int:
        """Return the CRC of `data`, or of what `crc` is the CRC of with `data` behind it."""
        register = np.array([crc ^ self._ones], self._type)
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            register = self._append_zeros(register, len(piece)) ^ self._raw(piece)
        return int(register[0]) ^ self._ones

    def _raw(self, piece: bytes) -> Array:
        """Return the register after `piece`, begun as zero: zeros in front of it change nothing."""
        lanes = _LANES if len(piece) > _LANES * 8 else 1
        length = -(-len(piece) // (2 * lanes)) * 2
        padded = np.zeros(lanes * length, np.uint8)
        padded[lanes * length - len(piece) :] = np.frombuffer(piece, np.uint8)
        words = np.ascontiguousarray(padded.view("<u2").reshape(lanes, -1).T)
        state = np.zeros(lanes, self._type)
        for column in words:
            state = self._table[(state ^ column) & 0xFFFF] ^ (state >> 16)
        while len(state) > 1:
            state = self._append_zeros(state[0::2], length) ^ state[1::2]
            length *= 2
        return state

    @cached_property
    def _table(self) -> Array:
        """What two bytes do to a register."""
        table = np.arange(1 << 16, dtype=self._type)
        polynomial = self._type(self._polynomial)
        for _ in range(16):
            table = (table >> 1) ^ np.where(table & 1, polynomial, self._type(0))
        return table

    @cached_property
    def _powers(self) -> list[Array]:
        """Matrices, as columns, that append 1, 2, 4, ... zero bytes; as many as files have bits of length."""
        bits = self._type(1) << np.arange(self.width, dtype=self._type)
        polynomial, columns = self._type(self._polynomial), bits
        for _ in range(8):
            columns = (columns >> 1) ^ np.where(columns & 1, polynomial, self._type(0))
        powers = [columns]
        while len(powers) < 24:
            powers.append(self._times(powers[-1], powers[-1]))
        return powers

    def _append_zeros(self, registers: Array, count: int) -> Array:
        for power, matrix in enumerate(self._powers):
            if count >> power & 1:
                registers = self._times(matrix, registers)
        return registers

    def _times(self, matrix: Array, vectors: Array) -> Array:
        product = np.zeros_like(vectors)
        for bit, column in enumerate(matrix):
            product ^= np.where(vectors >> self._type(bit) & self._type(1), column, self._type(0))
        return product


CRC32C: Final = Crc(32, 0x82F63B78)
CRC64NVME: Final = Crc(64, 0x9A6C9329AC4BC9B5)
