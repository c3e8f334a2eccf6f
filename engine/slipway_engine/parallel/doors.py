"""Where ranks come in: a listener that takes each rank's two connections, and refuses what does not belong.

Who connects is not trusted before its first record was read and found to fit: it has a few seconds and a few
kilobytes for it.
"""

from __future__ import annotations

import hmac
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slipway_engine.errors import GroupBroken
from slipway_engine.parallel import wire
from slipway_engine.process.framing import FrameBuffer

_HELLO_BYTES = 1 << 14
_HELLO_SECONDS = 10.0
_MOST_STRANGERS = 256
_TICK_SECONDS = 0.5


@dataclass(slots=True)
class Member:
    """A rank that came in: its connections, its device's memory, and where it is."""

    rank: int
    place: str
    steps: socket.socket
    beats: socket.socket | None = None
    limit: int = 0
    available: int = 0


@dataclass(slots=True)
class _Stranger:
    sock: socket.socket
    place: str
    until: float
    frames: FrameBuffer = field(default_factory=lambda: FrameBuffer(_HELLO_BYTES))


class Doors:
    """Takes ranks in until all of them are there. `wanted` is what rank 0 would say of itself."""

    def __init__(self, listener: socket.socket, wanted: wire.Hello, welcome: wire.Welcome) -> None:
        self.members: dict[int, Member] = {}
        self._wanted = wanted
        self._welcome = welcome
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._strangers: dict[int, _Stranger] = {}

    def gather(self, seconds: float, check: Callable[[], None]) -> dict[int, Member]:
        """Return all other ranks. Raises GroupBroken, naming those that are missing at the deadline.

        `check` is called twice a second, and may raise what makes waiting pointless.
        """
        deadline = time.monotonic() + seconds
        try:
            while missing := self._missing():
                if time.monotonic() > deadline:
                    raise _too_late(missing, self._wanted.ranks, seconds)
                check()
                for key, _ in self._selector.select(_TICK_SECONDS):
                    if key.fileobj is self._listener:
                        self._open()
                    elif key.fd in self._strangers:
                        self._hear(self._strangers[key.fd])
                self._show_out(time.monotonic())
        finally:
            for stranger in list(self._strangers.values()):
                self._forget(stranger, close=True)
            self._selector.close()
        return self.members

    def _missing(self) -> list[int]:
        return [
            rank
            for rank in range(1, self._wanted.ranks)
            if rank not in self.members or self.members[rank].beats is None
        ]

    def _open(self) -> None:
        sock, address = self._listener.accept()
        if len(self._strangers) >= _MOST_STRANGERS:
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._strangers[sock.fileno()] = _Stranger(sock, str(address[0]), time.monotonic() + _HELLO_SECONDS)
        self._selector.register(sock, selectors.EVENT_READ)

    def _hear(self, stranger: _Stranger) -> None:
        try:
            data = stranger.sock.recv(_HELLO_BYTES)
            payloads = stranger.frames.feed(data)
            if data and not payloads:
                return
            hello = wire.read(payloads[0]) if payloads else None
        except (OSError, ValueError, wire.WireError):
            hello = None
        if not isinstance(hello, wire.Hello) or not hmac.compare_digest(
            hello.secret.encode(), self._wanted.secret.encode()
        ):
            self._forget(stranger, close=True)
        elif refusal := refusal_of(hello, self._wanted):
            self._refuse(stranger, hello, refusal)
        else:
            self._take(stranger, hello)

    def _take(self, stranger: _Stranger, hello: wire.Hello) -> None:
        sock, member = stranger.sock, self.members.get(hello.rank)
        if hello.beats and member is not None and member.beats is None:
            member.beats = sock
            member.limit, member.available = hello.limit, hello.available
        elif not hello.beats and member is None:
            self.members[hello.rank] = Member(hello.rank, stranger.place, sock)
            sock.settimeout(_HELLO_SECONDS)
            sock.sendall(wire.write(self._welcome))
        else:
            self._refuse(stranger, hello, f"rank {hello.rank} is in the group already")
            return
        self._forget(stranger)

    def _refuse(self, stranger: _Stranger, hello: wire.Hello, why: str) -> None:
        """Tell the rank and, as no group can be made of the others alone, end."""
        message = f"Rank {hello.rank} at {stranger.place} was refused: {why}."
        stranger.sock.settimeout(_HELLO_SECONDS)
        try:
            stranger.sock.sendall(wire.write(wire.Refused("RankRefused", message)))
        finally:
            self._forget(stranger, close=True)
        raise GroupBroken("RankRefused", message)

    def _show_out(self, now: float) -> None:
        for stranger in list(self._strangers.values()):
            if now > stranger.until:
                self._forget(stranger, close=True)

    def _forget(self, stranger: _Stranger, *, close: bool = False) -> None:
        self._strangers.pop(stranger.sock.fileno(), None)
        self._selector.unregister(stranger.sock)
        if close:
            stranger.sock.close()


def refusal_of(hello: wire.Hello, wanted: wire.Hello) -> str | None:
    """Return why a rank does not belong to the group, as a clause with the way out."""
    if hello.protocol != wanted.protocol or hello.version != wanted.version:
        return f"it runs {hello.version}, the leader {wanted.version}; give all pods of a group one image"
    if hello.ranks != wanted.ranks or hello.degrees != wanted.degrees:
        return (
            f"it was started for {hello.degrees}, the leader for {wanted.degrees}; "
            "give all pods of a group the same flags"
        )
    if hello.checksum != wanted.checksum:
        return (
            f"its model has the checksum {hello.checksum[:12]}, the leader's {wanted.checksum[:12]}; "
            "give all pods of a group one revision of the model"
        )
    if not 0 < hello.rank < wanted.ranks:
        return f"ranks beside the leader are 1 to {wanted.ranks - 1}"
    return None


def _too_late(missing: list[int], ranks: int, seconds: float) -> GroupBroken:
    names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    word = "rank" if len(missing) == 1 else "ranks"
    return GroupBroken(
        "RankMissing",
        f"After {seconds:g} s {word} {names} of {ranks} had not joined the group; look at the pods that "
        "should hold them, and whether they can reach the leader.",
    )
