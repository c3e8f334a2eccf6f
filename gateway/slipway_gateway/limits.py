"""What clients may make the gateway hold: bytes of one body and of all, requests at a time, seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from slipway_gateway.errors import contended, too_large


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is accepted and held."""

    max_body_bytes: int = 8 * 1024 * 1024
    max_buffered_bytes: int = 256 * 1024 * 1024
    max_requests: int = 4096
    max_connections: int = 8192
    max_header_line: int = 8190
    """Longest request line and longest header field, in bytes."""
    max_headers: int = 64


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that each phase may take; there is none for a request as a whole."""

    connect: float = 1.0
    first_byte: float = 600.0
    """Until the pod's response begins: a request that does not stream is silent until its last token."""
    idle: float = 120.0
    """Between two pieces of a response, on either side."""
    header: float = 10.0
    body: float = 60.0
    keepalive: float = 75.0
    drain: float = 300.0


class Admission:
    """Counts what is held right now and refuses what would exceed the bounds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests = 0
        self.buffered = 0
        self._of_tenant: dict[str, int] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> None:
        """Count one more request, or refuse it."""
        if self.requests >= self._limits.max_requests:
            raise contended(f"it already carries {self.requests} requests, its --max-requests")
        self.requests += 1
        self._empty.clear()

    def leave(self) -> None:
        """Count it as over."""
        self.requests -= 1
        if not self.requests:
            self._empty.set()

    @contextmanager
    def tenant(self, name: str) -> Iterator[None]:
        """Count a request as one of its tenant's, who leaves an eighth of all to others."""
        count = self._of_tenant.get(name, 0)
        if name and count >= max(1, self._limits.max_requests * 7 // 8):
            raise contended(f"it already carries {count} requests of this tenant")
        self._of_tenant[name] = count + 1
        try:
            yield
        finally:
            self._of_tenant[name] -= 1
            if not self._of_tenant[name]:
                del self._of_tenant[name]

    async def until_empty(self) -> None:
        """Wait until nothing is carried."""
        await self._empty.wait()

    def check_announced(self, length: int | None) -> None:
        """Refuse a body by its Content-Length, before any of it is read."""
        if length is not None and length > self._limits.max_body_bytes:
            raise too_large(self._limits.max_body_bytes)


class Buffer:
    """The body of one request while the gateway holds it."""

    def __init__(self, admission: Admission, limits: Limits) -> None:
        self._admission = admission
        self._limits = limits
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Hold one more piece, or refuse it."""
        if self._size + len(piece) > self._limits.max_body_bytes:
            raise too_large(self._limits.max_body_bytes)
        if self._admission.buffered + len(piece) > self._limits.max_buffered_bytes:
            raise contended(f"it already holds {self._admission.buffered} bytes of requests")
        self._pieces.append(piece)
        self._size += len(piece)
        self._admission.buffered += len(piece)

    def content(self) -> bytes:
        """Return the body."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def release(self) -> None:
        """Let go of the body."""
        self._admission.buffered -= self._size
        self._pieces, self._size = [], 0
