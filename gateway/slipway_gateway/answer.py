"""A pod's response, passed on piece by piece; and what the client is told when the pod breaks off in it.

Before anything was sent that is a refusal like any other; in a stream of events it is one more event; in
anything else the connection is cut, for only that says that the response is incomplete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp import web

from slipway_gateway import sse, usage
from slipway_gateway.record import CLIENT_LEFT, UPSTREAM_FAILED, Record

WHOLE: Final = 1024 * 1024
"""A response whose length is known, up to this, is complete before its first byte is sent."""

_SILENT: Final = "stayed silent for longer than this gateway's --idle-timeout"


class BrokeOff(Exception):
    """The pod's response ended before it was complete, and nothing of it was sent."""


class ClientLeft(Exception):
    """The client is gone, or takes nothing any more."""


async def pass_on(
    request: web.BaseRequest,
    response: aiohttp.ClientResponse,
    headers: dict[str, str],
    record: Record,
    idle: float,
) -> web.StreamResponse:
    """Send the response on and return it; `record` tells how that went."""
    record.status = response.status
    length = response.content_length
    if response.content_type == "text/event-stream":
        return await _Outgoing(request, response, headers, record, idle).events()
    if length is not None and length <= WHOLE:
        body = await _whole(response, idle)
        record.bytes_out = len(body)
        record.tally.take(body)
        return web.Response(status=response.status, body=body, headers=headers)
    return await _Outgoing(request, response, headers, record, idle).other()


class _Outgoing:
    """A response that is sent while it arrives."""

    def __init__(
        self,
        request: web.BaseRequest,
        response: aiohttp.ClientResponse,
        headers: dict[str, str],
        record: Record,
        idle: float,
    ) -> None:
        self._request = request
        self._response = response
        self._out = web.StreamResponse(status=response.status, headers=headers)
        self._record = record
        self._idle = idle
        self._writing = False
        self._end = b""

    async def events(self) -> web.StreamResponse:
        """Pass on server-sent events, whole ones only."""
        events, tally = sse.Events(), self._record.tally
        try:
            await self._forward(lambda piece: tally.pass_events(events.feed(piece)))
            await self._write(tally.pass_events(events.rest()))
        except BrokeOff as error:
            self._record.outcome = UPSTREAM_FAILED
            sentence = f"The pod that answered {error}; send the request again."
            await self._write(sse.error_event(sentence, "upstream_failed"))
        return self._out

    async def other(self) -> web.StreamResponse:
        """Pass on anything else."""
        try:
            await self._forward(self._remember_end)
            self._record.tally.take(self._end)
        except BrokeOff:
            self._record.outcome = UPSTREAM_FAILED
            self._cut()
        return self._out

    def _remember_end(self, piece: bytes) -> bytes:
        self._end = (self._end + piece)[-usage.TAIL :] if len(piece) < usage.TAIL else piece[-usage.TAIL :]
        return piece

    async def _forward(self, ready: Callable[[bytes], bytes]) -> None:
        await self._out.prepare(self._request)
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._idle) as timer:
                while piece := await _read(self._response):
                    await self._write(ready(piece))
                    # Not at every event: setting a timer costs as much as sending one.
                    if (timer.when() or 0.0) - (now := clock()) < 0.9 * self._idle:
                        timer.reschedule(now + self._idle)
        except TimeoutError:
            if self._writing:
                raise self._client_left() from None
            raise BrokeOff(_SILENT) from None

    async def _write(self, piece: bytes) -> None:
        if not piece:
            return
        self._writing = True
        try:
            await self._out.write(piece)
        except ConnectionError:
            raise self._client_left() from None
        self._writing = False
        self._record.bytes_out += len(piece)

    def _client_left(self) -> ClientLeft:
        self._record.outcome = CLIENT_LEFT
        self._cut()
        return ClientLeft()

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


async def _whole(response: aiohttp.ClientResponse, idle: float) -> bytes:
    pieces = []
    try:
        async with asyncio.timeout(idle):
            while piece := await _read(response):
                pieces.append(piece)
    except TimeoutError:
        raise BrokeOff(_SILENT) from None
    return b"".join(pieces)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.content.readany()
    except (aiohttp.ClientError, ConnectionError):
        raise BrokeOff("broke off in the middle of its response") from None
