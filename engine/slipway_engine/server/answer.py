"""One request from its body to its last byte; whoever leaves first, everything is freed."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slipway_engine.errors import RequestError
from slipway_engine.server.body import read_body
from slipway_engine.server.formats import event
from slipway_engine.server.generation import Generation
from slipway_engine.server.job import Job, Prompt
from slipway_engine.server.parsing import parse
from slipway_engine.server.problems import error_body, error_response
from slipway_engine.server.service import Service
from slipway_engine.server.tracing import RequestSpan

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
MAX_TIMEOUT = 86_400
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LONGEST_LOGGED = 10_000  # characters of one prompt

AskedT = TypeVar("AskedT", bound=BaseModel)


class ClientLeft(Exception):
    """The client has closed its connection."""


class Answer(Response):
    """The response to one request to the core; as an ASGI application it also does the work."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._arrival = time.monotonic()
        self._request_id = ""
        self._status = 0
        self._problem: RequestError | None = None
        self._generation: Generation | None = None
        self._prompts: Sequence[Prompt] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Errors before the first byte have their status; later ones are an event of the stream."""
        request = Request(scope, receive)
        self._request_id = _request_id(request)
        with self._service.counted():
            try:
                self._service.admit()
                await self._answer(request, send)
            except RequestError as error:
                await self._refuse(error, scope, receive, send)
            except ClientLeft:
                self._status = CLIENT_LEFT
        self._tell(request)

    @abstractmethod
    async def _answer(self, request: Request, send: Send) -> None:
        """Do what the request asks for. Raises RequestError, ClientLeft."""

    async def _asked(self, request: Request, kind: type[AskedT]) -> AskedT:
        """Return the request in the body. Raises RequestError."""
        settings = self._service.settings
        body = await read_body(request, limit=settings.max_body_bytes, seconds=settings.body_seconds)
        asked = parse(kind, body)
        self._service.check_name(getattr(asked, "model", None))
        return asked

    def _deadline(self, request: Request, timeout: float | None) -> float | None:
        """Return when the answer must be complete, on the monotonic clock; the nearer of field and header."""
        given = request.headers.get("x-request-timeout")
        seconds = [timeout] if timeout is not None else []
        if given is not None:
            seconds.append(_seconds(given))
        return self._arrival + min(seconds) if seconds else None

    @asynccontextmanager
    async def _running(self, job: Job, request: Request) -> AsyncIterator[Generation]:
        """Run a job until the block ends; ClientLeft is raised in it when the client hangs up."""
        self._prompts = job.prompts
        with self._service.run(job) as generation:
            self._generation = generation
            watcher = asyncio.create_task(_watch(request.receive, generation))
            try:
                yield generation
            finally:
                watcher.cancel()

    async def _send_json(self, send: Send, body: bytes) -> None:
        length = (b"content-length", b"%d" % len(body))
        await self._start(send, 200, ((b"content-type", b"application/json"), length))
        await send({"type": "http.response.body", "body": body})

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

    def _tell(self, request: Request) -> None:
        """Leave a line in the log and a span: what was asked for and what became of it.

        Texts are in neither, except prompts in the log where that was asked for.
        """
        seconds = time.monotonic() - self._arrival
        trace = self._service.tracer.record(self._span(request, seconds))
        facts: dict[str, object] = {
            "request_id": self._request_id,
            "path": request.url.path,
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
        if trace is not None:
            facts["trace_id"] = trace
        if self._problem is not None:
            facts |= {"error_code": self._problem.code, "error_param": self._problem.param}
        if self._service.settings.log_prompts and self._prompts:
            facts["prompts"] = [self._service.shown(prompt)[:_LONGEST_LOGGED] for prompt in self._prompts]
        log.info("request", extra=facts)

    def _span(self, request: Request, seconds: float) -> RequestSpan:
        path, settings = request.url.path, self._service.settings
        operation = path.removeprefix("/v1/").replace("/", "_").removesuffix("_completions")
        facts: dict[str, Any] = {
            "gen_ai.operation.name": {"completions": "text_completion"}.get(operation, operation),
            "gen_ai.request.model": settings.served_names[0],
            "gen_ai.request.id": self._request_id,
            "url.path": path,
        }
        if (generation := self._generation) is not None:
            facts |= generation.as_attributes()
        error = self._problem.code if self._problem is not None else None
        return RequestSpan(f"POST {path}", request.headers, seconds, self._status, error, facts)


async def _watch(receive: Receive, generation: Generation) -> None:
    """End the generation when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.mailbox.close(ClientLeft())


def _request_id(request: Request) -> str:
    """Return the caller's own id of the request where it is a decent one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise RequestError(
            f"The header X-Request-Timeout is {given[:40]!r}; "
            f"send seconds, more than 0 and at most {MAX_TIMEOUT}.",
            param="X-Request-Timeout",
        )
    return seconds
