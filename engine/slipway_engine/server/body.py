"""Reading a request's body with a bound on its size and on the time it takes."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from slipway_engine.errors import RequestError


async def read_body(request: Request, *, limit: int, seconds: float) -> bytes:
    """Return the body. Raises RequestError as soon as it is certain to be too large or too slow."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(limit)
    try:
        return await asyncio.wait_for(_read(request, limit), seconds)
    except TimeoutError as error:
        raise RequestError(
            f"The body did not arrive within {seconds:g} s; send it faster.", code="body_timeout", status=408
        ) from error
    except ClientDisconnect as error:
        raise RequestError(
            "The client left before its body was complete.", code="client_closed_request"
        ) from error


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> RequestError:
    return RequestError(
        f"The body is larger than {limit} bytes, this server's limit (--max-body-bytes).",
        code="body_too_large",
        status=413,
    )
