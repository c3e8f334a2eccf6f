"""One generation request from its body to its last byte; whoever leaves first, everything is freed."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slipway_engine.errors import RequestError
from slipway_engine.server.body import read_body
from slipway_engine.server.formats import DONE, Choice, Format, Head, event
from slipway_engine.server.generation import Delta, Generation
from slipway_engine.server.problems import error_body, error_response
from slipway_engine.server.protocol import ChatRequest, CompletionRequest, parse
from slipway_engine.server.service import Service
from slipway_engine.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))

RequestT = TypeVar("RequestT", CompletionRequest, ChatRequest)


class ClientLeft(Exception):
    """The client has closed its connection."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[RequestT]):
    """What tells completions and chats apart."""

    prefix: str
    request: type[RequestT]
    prompts: Callable[[Service, RequestT], Awaitable[list[list[int]]]]
    format: Callable[[Head, Tokenizer, RequestT], Format]


class Answer(Response, Generic[RequestT]):
    """The response to one generation request; as an ASGI application it also does the work."""

    def __init__(self, service: Service, kind: Kind[RequestT]) -> None:
        super().__init__()
        self._service = service
        self._kind: Kind[RequestT] = kind
        self._arrival = time.monotonic()
        self._request_id = ""
        self._status = 0
        self._problem: RequestError | None = None
        self._generation: Generation | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Errors before the first byte have their status; later ones are an event of the stream."""
        request = Request(scope, receive)
        self._request_id = _request_id(request)
        with self._service.counted():
            try:
                await self._answer(request, send)
            except RequestError as error:
                await self._refuse(error, scope, receive, send)
            except ClientLeft:
                self._status = CLIENT_LEFT
        self._log(scope["path"])

    async def _answer(self, request: Request, send: Send) -> None:
        service = self._service
        service.admit()
        body = await read_body(
            request, limit=service.settings.max_body_bytes, seconds=service.settings.body_seconds
        )
        asked = parse(self._kind.request, body)
        service.check_name(asked.model)
        if asked.stream_options is not None and not asked.stream:
            raise RequestError("stream_options needs stream: true.", param="stream_options")
        prompts = await self._kind.prompts(service, asked)
        job = service.job(self._kind.prefix, asked, prompts, self._arrival)
        head = Head(job.request_id, int(time.time()), asked.model or service.settings.served_names[0])
        form = self._kind.format(head, service.model.tokenizer, asked)
        with service.run(job) as generation:
            self._generation = generation
            watcher = asyncio.create_task(_watch(request.receive, generation))
            try:
                async with aclosing(generation.deltas()) as deltas:
                    write = self._stream if asked.stream else self._whole
                    await write(deltas, form, generation, asked.usage_in_stream(), send)
            finally:
                watcher.cancel()

    async def _whole(
        self, deltas: AsyncGenerator[Delta], form: Format, generation: Generation, usage: bool, send: Send
    ) -> None:
        choices = [Choice() for _ in range(len(generation.job.prompts) * generation.job.n)]
        async for delta in deltas:
            choices[delta.index].add(delta)
        body = form.whole(choices, generation.usage)
        await self._start(
            send, 200, ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
        )
        await send({"type": "http.response.body", "body": body})

    async def _stream(
        self, deltas: AsyncGenerator[Delta], form: Format, generation: Generation, usage: bool, send: Send
    ) -> None:
        # The status waits for the first token: until then a request can still be refused as one.
        first = await anext(deltas)
        await self._start(send, 200, _STREAM_HEADERS)
        opening = form.opening(len(generation.job.prompts) * generation.job.n)
        await _send_more(send, opening + form.chunk(first))
        async for delta in deltas:
            await _send_more(send, form.chunk(delta))
        tail = form.usage_chunk(generation.usage) if usage else b""
        await send({"type": "http.response.body", "body": tail + DONE})

    async def _start(self, send: Send, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._status = status
        named = (b"x-request-id", self._request_id.encode())
        await send({"type": "http.response.start", "status": status, "headers": [*headers, named]})

    async def _refuse(self, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        self._problem = error
        self._service.metrics.refused(error.status)
        if self._status:
            await send({"type": "http.response.body", "body": event(json.dumps(error_body(error)))})
            return
        self._status = error.status
        await error_response(error, {"X-Request-Id": self._request_id})(scope, receive, send)

    def _log(self, path: str) -> None:
        """Write one line: what was asked for and what became of it, never a word of the texts."""
        seconds = time.monotonic() - self._arrival
        facts: dict[str, object] = {
            "request_id": self._request_id,
            "path": path,
            "status": self._status,
            "duration_ms": round(1000 * seconds, 1),
        }
        if self._generation is not None:
            generation = self._generation
            facts |= generation.usage.as_log() | {
                "completion_id": generation.job.request_id,
                "finish": ",".join(sorted(set(generation.finishes))),
            }
            if generation.first_token_seconds is not None:
                facts["ttft_ms"] = round(1000 * generation.first_token_seconds, 1)
        if self._problem is not None:
            facts |= {"error_code": self._problem.code, "error_param": self._problem.param}
        log.info("request", extra=facts)


async def _watch(receive: Receive, generation: Generation) -> None:
    """End the generation when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.mailbox.close(ClientLeft())


async def _send_more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _request_id(request: Request) -> str:
    """Return the caller's own id of the request where it is a decent one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
