"""The listening side: aiohttp's HTTP server with what it lacks against slow, large and odd clients.

A request's head must arrive within a deadline, connections are counted, and what cannot be parsed is answered
in the shape that OpenAI's clients read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from slipway_gateway.errors import error_body
from slipway_gateway.limits import Limits, Timeouts

log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 2.0
"""How long the rest of a refused body is read and dropped, so that the client gets to read the refusal."""

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener(web.Server):
    """Serves connections of our own kind."""

    def __init__(
        self, handle: Handle, unreadable: Callable[[int], None], limits: Limits, timeouts: Timeouts
    ) -> None:
        super().__init__(self._handle, handler_cancellation=True)
        self._answer = handle
        self.unreadable = unreadable
        self._limits = limits
        self._timeouts = timeouts

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            header_seconds=self._timeouts.header,
            max_connections=self._limits.max_connections,
            keepalive_timeout=self._timeouts.keepalive,
            max_line_size=self._limits.max_header_line,
            max_field_size=self._limits.max_header_line,
            max_headers=self._limits.max_headers,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            access_log=None,
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.head_arrived()
        try:
            return await self._answer(request)
        finally:
            connection.request_over()


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_busy", "_deadline", "_header_seconds", "_max_connections")

    def __init__(
        self, manager: Listener, *, header_seconds: float, max_connections: int, **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._header_seconds = header_seconds
        self._max_connections = max_connections
        self._busy = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the deadline of the first head."""
        super().connection_made(transport)
        manager = self._manager
        if manager is not None and len(manager.connections) > self._max_connections:
            self.force_close()
            return
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Start the deadline of a head with its first byte."""
        super().data_received(data)
        if not self._busy and self._deadline is None:
            self._start_deadline()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the deadline."""
        self._stop_deadline()
        super().connection_lost(exc)

    def head_arrived(self) -> None:
        """Note that a request is being answered."""
        self._busy = True
        self._stop_deadline()

    def request_over(self) -> None:
        """Note that the next bytes begin another head."""
        self._busy = False

    def _start_deadline(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self._header_seconds, self.force_close)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or a defect of ours, and close."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already begun")
        if status >= 500:
            log.error("a request failed through a defect of the gateway", exc_info=exc)
            body = error_body("The gateway failed; its log says more.", "server_error", "internal_error")
        else:
            body = error_body(
                "The request is not HTTP/1.1 as the gateway takes it (a malformed, ambiguous or over-long "
                "head); correct its request line and headers.",
                "invalid_request_error",
                "invalid_http",
            )
            if isinstance(self._manager, Listener):
                self._manager.unreadable(status)
        response = web.Response(status=status, body=body, content_type="application/json")
        response.force_close()
        return response
