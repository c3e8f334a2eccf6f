"""The answer to a completion or a chat: whole, or as a stream of events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.types import Send

from slipway_engine.errors import RequestError
from slipway_engine.server.answer import Answer
from slipway_engine.server.formats import DONE, Choice, Format, Head
from slipway_engine.server.generation import Generation
from slipway_engine.server.job import Delta, Prompt
from slipway_engine.server.jobs import new_job
from slipway_engine.server.protocol import ChatRequest, CompletionRequest
from slipway_engine.server.service import Service

_STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))

RequestT = TypeVar("RequestT", CompletionRequest, ChatRequest)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request comes down to: prompts, a way to write, and special tokens that it wants to see."""

    prompts: Sequence[Prompt]
    new_format: Callable[[Head], Format]
    shown: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Kind(Generic[RequestT]):
    """What tells completions and chats apart."""

    prefix: str
    request: type[RequestT]
    plan: Callable[[Service, RequestT], Awaitable[Plan]]


class TextAnswer(Answer, Generic[RequestT]):
    """The response to one request for text."""

    def __init__(self, service: Service, kind: Kind[RequestT]) -> None:
        super().__init__(service)
        self._kind: Kind[RequestT] = kind

    async def _answer(self, request: Request, send: Send) -> None:
        service = self._service
        asked = await self._asked(request, self._kind.request)
        if asked.stream_options is not None and not asked.stream:
            raise RequestError("stream_options needs stream: true.", param="stream_options")
        deadline = self._deadline(request, asked.timeout)
        service.check_generates()
        plan = await self._kind.plan(service, asked)
        job = new_job(
            service,
            self._kind.prefix,
            asked,
            plan.prompts,
            self._arrival,
            deadline=deadline,
            shown=plan.shown,
        )
        form = plan.new_format(
            Head(job.request_id, int(time.time()), asked.model or service.settings.served_names[0])
        )
        async with self._running(job, request) as generation, aclosing(generation.deltas()) as deltas:
            if asked.stream:
                await self._stream(deltas, form, generation, asked.usage_in_stream(), send)
            else:
                await self._whole(deltas, form, generation, send)

    async def _whole(
        self, deltas: AsyncGenerator[Delta], form: Format, generation: Generation, send: Send
    ) -> None:
        choices = [Choice() for _ in range(generation.job.choices)]
        async for delta in deltas:
            choices[delta.index].add(delta)
        await self._send_json(send, form.whole(choices, generation.usage))

    async def _stream(
        self, deltas: AsyncGenerator[Delta], form: Format, generation: Generation, usage: bool, send: Send
    ) -> None:
        # The status waits for the first token: until then a request can still be refused as one.
        first = await anext(deltas)
        await self._start(send, 200, _STREAM_HEADERS)
        await _send_more(send, form.opening(generation.job.choices) + form.chunk(first))
        async for delta in deltas:
            await _send_more(send, form.chunk(delta))
        tail = form.usage_chunk(generation.usage) if usage else b""
        await send({"type": "http.response.body", "body": tail + DONE})


async def _send_more(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
