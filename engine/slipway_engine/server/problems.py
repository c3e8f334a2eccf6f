"""Errors as OpenAI's clients expect them: one JSON object, the right status, and when to try again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from slipway_engine.errors import RequestError

RETRY_SECONDS = {429: 1, 503: 5}
_TYPES = {404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
_LONGEST_VALUE = 80


def error_body(error: RequestError) -> dict[str, Any]:
    """Return the body that tells a client of this error."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def error_response(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response that tells a client of this error."""
    response = Response(
        json.dumps(error_body(error)).encode(), error.status, headers, media_type="application/json"
    )
    wait = error.retry_after if error.retry_after is not None else RETRY_SECONDS.get(error.status)
    if wait is not None:
        response.headers["Retry-After"] = str(max(1, ceil(wait)))
    return response


async def on_request_error(request: Request, error: Exception) -> Response:
    """Exception handler for RequestError."""
    assert isinstance(error, RequestError)
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for what the framework refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    # The path is not quoted back: it is the client's, and may be long.
    message = f"{request.method} on this path: {phrase}. This server's paths are listed under /openapi.json."
    code = phrase.lower().replace(" ", "_")
    return error_response(RequestError(message, code=code, status=error.status_code), error.headers)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Exception handler for everything else; the framework logs the traceback."""
    sentence = f"This server failed at the request ({type(error).__name__}); its log says more."
    return error_response(RequestError(sentence, code="internal_error", status=500))


def from_validation(error: ValidationError) -> RequestError:
    """Return the first fault that Pydantic found, as one sentence that names the field."""
    first = error.errors(include_url=False, include_context=True)[0]
    field = ".".join(str(part) for part in first["loc"]) or "The body"
    return RequestError(_sentence(field, first), param=field if first["loc"] else None, code=_code(first))


def _code(detail: ErrorDetails) -> str:
    return {
        "extra_forbidden": "unknown_field",
        "missing": "missing_field",
        "json_invalid": "invalid_json",
    }.get(detail["type"], "invalid_value")


def _sentence(field: str, detail: ErrorDetails) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return f"{field} is unknown to this server; remove it, or see /openapi.json for the known ones."
        case "missing":
            return f"{field} is missing; it is required."
        case "json_invalid":
            return f"The body is not valid JSON: {detail['ctx']['error']}."
        case "greater_than":
            return f"{field} is {_shown(detail['input'])}; it must be greater than {detail['ctx']['gt']}."
        case "greater_than_equal":
            return f"{field} is {_shown(detail['input'])}; it must be at least {detail['ctx']['ge']}."
        case "less_than_equal":
            return f"{field} is {_shown(detail['input'])}; it must be at most {detail['ctx']['le']}."
        case _:
            return f"{field}: {detail['msg']}."


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) > 10**18:
        return "a number of too many digits"
    return repr(value)[:_LONGEST_VALUE]
