"""Frames on a byte stream: four bytes of length, most significant first, then the payload."""

from __future__ import annotations

import struct

_HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 256 * 1024 * 1024


def frame(payload: bytes) -> bytes:
    """Return the payload with its length in front."""
    if len(payload) > MAX_FRAME_BYTES:
        raise ValueError(f"A message of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}.")
    return _HEADER.pack(len(payload)) + payload


class FrameBuffer:
    """Cuts a stream, fed in pieces of any size, into the payloads of its frames."""

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._pending = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Add what arrived; return the payloads that are now complete, in order."""
        self._pending += data
        payloads = []
        start = 0
        while len(self._pending) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._pending, start)
            if length > self._limit:
                raise ValueError(f"A frame of {length} bytes is over the limit of {self._limit}.")
            end = start + _HEADER.size + length
            if end > len(self._pending):
                break
            payloads.append(bytes(self._pending[start + _HEADER.size : end]))
            start = end
        del self._pending[:start]
        return payloads
