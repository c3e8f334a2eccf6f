"""Sends one request and says how it ended: in tokens, in an error with a name, or as none may end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from benchmarks.soak.mix import Request

LONGEST_WAIT = 600.0
"""Seconds after which a request counts as lost."""


class Fault(Exception):
    """The answer is none that a client could have expected."""


async def send(session: aiohttp.ClientSession, request: Request) -> str:
    """Send the request; return "tokens", "done", "hung up" or the error's code. Raises Fault."""
    try:
        async with asyncio.timeout(LONGEST_WAIT):
            return await _send(session, request)
    except TimeoutError:
        raise Fault(f"no end within {LONGEST_WAIT:g} s") from None
    except aiohttp.ClientError as error:
        raise Fault(f"the connection broke: {type(error).__name__} {error}") from error


async def _send(session: aiohttp.ClientSession, request: Request) -> str:
    headers = {"Content-Type": "application/json"}
    if request.hang_up == 0:
        return await _leave_early(session, request, headers)
    async with session.post(request.path, data=request.body, headers=headers) as response:
        if response.status != 200:
            return _named(request, response, await response.read())
        if response.content_type != "text/event-stream":
            return _whole(request, await response.read())
        return await _streamed(request, response)


async def _leave_early(session: aiohttp.ClientSession, request: Request, headers: dict[str, str]) -> str:
    """Send the request, and go before the answer can have begun, or hardly."""
    asked = asyncio.ensure_future(session.post(request.path, data=request.body, headers=headers))
    await asyncio.sleep(0.05)
    if asked.done():
        response = await asked
        response.close()
    asked.cancel()
    return "hung up"


def _named(request: Request, response: aiohttp.ClientResponse, body: bytes) -> str:
    """Return the code of an error's body, which must be of OpenAI's shape."""
    status = response.status
    code = _code(_json(body).get("error"))
    if code == "internal_error" or status not in (400, 404, 405, 408, 413, 415, 422, 429, 503, 504):
        raise Fault(f"status {status}: {body[:300]!r}")
    if status == 429 and not response.headers.get("Retry-After", "").isdecimal():
        raise Fault("429 without Retry-After")
    if status < 429 and not request.refusable:
        raise Fault(f"a good request was refused with {status}: {body[:300]!r}")
    return code


def _whole(request: Request, body: bytes) -> str:
    answer = _json(body)
    if request.refusable or not request.choices:
        return "done"
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != request.choices:
        raise Fault(f"{request.choices} choices were owed: {body[:300]!r}")
    if not all(choice.get("finish_reason") in ("stop", "length") for choice in choices):
        raise Fault(f"a choice has no end: {body[:300]!r}")
    return "tokens"


async def _streamed(request: Request, response: aiohttp.ClientResponse) -> str:
    ended: set[int] = set()
    count = 0
    async for data in _events(response):
        if data == "[DONE]":
            if not request.refusable and len(ended) != request.choices:
                raise Fault(f"{len(ended)} of {request.choices} choices ended before [DONE]")
            return "tokens"
        event = _json(data.encode())
        if "error" in event:
            return _code(event["error"])
        for choice in event.get("choices", ()):
            if choice["index"] in ended:
                raise Fault(f"choice {choice['index']} went on after its end")
            if choice.get("finish_reason") is not None:
                ended.add(choice["index"])
        count += 1
        if count == request.hang_up:
            response.close()
            return "hung up"
    raise Fault(f"the stream broke off after {count} events")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in response.content:
        if line.startswith(b"data: "):
            yield line[6:].decode().rstrip("\r\n")


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Fault(f"an answer is no JSON: {body[:200]!r}") from error
    if not isinstance(value, dict):
        raise Fault(f"an answer is no object: {body[:200]!r}")
    return value


def _code(error: object) -> str:
    if not isinstance(error, dict) or not isinstance(error.get("code"), str) or not error.get("message"):
        raise Fault(f"an error without code or message: {error!r}")
    if error["code"] == "internal_error":
        raise Fault(f"an internal error: {error['message']}")
    return str(error["code"])
