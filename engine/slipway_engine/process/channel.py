"""The core's end of the socket pair: blocking when there is nothing to do, never waiting when there is."""

from __future__ import annotations

import socket
import threading

from slipway_engine.core.messages import Message, decode, encode
from slipway_engine.process.framing import FrameBuffer, frame

_READ_BYTES = 1 << 16


class PeerGone(Exception):
    """The process at the other end has closed the socket, so nobody is left to work for."""


class Channel:
    """Messages over a blocking stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = FrameBuffer()
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Send one message; waits where the other end reads slower than this one writes."""
        try:
            with self._sending:
                self._sock.sendall(frame(encode(message)))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerGone from error

    def wait(self) -> list[Message]:
        """Return the messages that arrive next, at least one."""
        messages: list[Message] = []
        while not messages:
            messages = self._read(0)
        return messages + self.poll()

    def poll(self) -> list[Message]:
        """Return every message that has already arrived, perhaps none, without waiting."""
        messages: list[Message] = []
        while True:
            try:
                messages += self._read(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages

    def _read(self, flags: int) -> list[Message]:
        try:
            data = self._sock.recv(_READ_BYTES, flags)
        except ConnectionResetError as error:
            raise PeerGone from error
        if not data:
            raise PeerGone
        return [decode(payload) for payload in self._frames.feed(data)]
