"""Forwards server-sent events whole: what came of an event that is not finished waits for its end.

Engines write an event at a time, so nothing is delayed in practice; but when a pod vanishes in the middle of
an event, its client has seen whole events only, and the error event that follows can be read.
"""

from __future__ import annotations

from typing import Final

from slipway_gateway.errors import error_body

MAX_PARTIAL: Final = 1024 * 1024
_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Events:
    """Splits a byte stream after its last finished event."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, piece: bytes) -> bytes:
        """Return what may be forwarded now."""
        if not self._partial and piece.endswith(b"\n\n"):
            return piece
        data = self._partial + piece
        cut = max((at + len(end) for end in _ENDS if (at := data.rfind(end)) >= 0), default=0)
        if len(data) - cut > MAX_PARTIAL:
            cut = len(data)  # no engine's event is this long; whatever it is, it is not held
        self._partial = data[cut:]
        return data[:cut]

    def rest(self) -> bytes:
        """Return what a stream that ended properly left unfinished."""
        return self._partial


def error_event(message: str, code: str) -> bytes:
    """Return an error as an event, as OpenAI's clients read it in the middle of a stream."""
    return b"data: " + error_body(message, "server_error", code) + b"\n\n"
