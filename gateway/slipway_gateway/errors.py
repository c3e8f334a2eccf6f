"""Refusals of the gateway, in the shape that OpenAI's clients read.

GatewayError
  x unauthorized        401  no key, an unknown key, or nobody is configured yet
  x model_not_found     404  the caller sees no deployment of that name
  x bad_request         400  the body is not what the API takes
  x too_large           413  the body is larger than the gateway holds
  x contended           429  the gateway's own bounds are reached
  x unavailable         503  the deployment has no pod that could answer
  x bad_gateway         502  the pod broke off
  x gateway_timeout     504  the pod stayed silent
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

RETRY_AFTER_CONTENDED = 1
RETRY_AFTER_UNAVAILABLE = 5
NAMES_LISTED = 20


class GatewayError(Exception):
    """A refusal: its status, and one sentence that says what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or {}
        self.close = close
        """Whether the connection ends with this answer, because the rest of the request was not read."""

    def body(self) -> bytes:
        """Return the JSON that OpenAI's clients read."""
        return error_body(self.message, self.kind, self.code, self.param)


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """Return an error object as JSON bytes."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}).encode()


def unauthorized(message: str) -> GatewayError:
    """No key, an unknown key, or nobody is configured."""
    return GatewayError(
        401,
        message,
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": 'Bearer realm="slipway"'},
        close=True,
    )


def model_not_found(asked: str, known: Iterable[str]) -> GatewayError:
    """The caller sees no deployment of that name; `known` are the names that would work."""
    names = list(islice(known, NAMES_LISTED + 1))
    listed = ", ".join(repr(name) for name in names[:NAMES_LISTED])
    more = ", ... (GET /v1/models lists all)" if len(names) > NAMES_LISTED else ""
    hint = (
        f"ask for one of {listed}{more}"
        if names
        else "there is no LLMDeployment that you may see; create one, or ask for access to its namespace"
    )
    message = f"The model {shorten(asked)!r} does not exist here, or you may not see it; {hint}."
    return GatewayError(404, message, code="model_not_found", param="model")


def not_found(path: str) -> GatewayError:
    """No such route."""
    routes = "/v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models"
    return GatewayError(
        404, f"There is no {shorten(path)!r} here; the gateway serves {routes}.", code="not_found", close=True
    )


def method_not_allowed(path: str, allowed: str) -> GatewayError:
    """The route takes another method."""
    return GatewayError(
        405,
        f"{path} takes {allowed}; send the request again with that method.",
        code="method_not_allowed",
        headers={"Allow": allowed},
        close=True,
    )


def bad_request(message: str, param: str | None = None) -> GatewayError:
    """The body is not what the API takes."""
    return GatewayError(400, message, code="invalid_request", param=param)


def bad_framing() -> GatewayError:
    """The body is not framed as announced."""
    return GatewayError(
        400,
        "The body broke off, or is not framed as its headers announce; send it again.",
        code="invalid_request",
        close=True,
    )


def unsupported_encoding(encoding: str) -> GatewayError:
    """The body is compressed, which would hide its size."""
    return GatewayError(
        415,
        f"The body's Content-Encoding is {shorten(encoding)!r}; send it uncompressed.",
        code="unsupported_content_encoding",
        close=True,
    )


def too_large(limit: int) -> GatewayError:
    """The body is larger than the gateway holds."""
    message = f"The body is larger than {limit} bytes, this gateway's --max-body-bytes; send a smaller one."
    return GatewayError(413, message, code="request_too_large", close=True)


def slow_body(seconds: float) -> GatewayError:
    """The body did not arrive in time."""
    message = f"The body did not arrive within {seconds:g} s, this gateway's --body-timeout; send it faster."
    return GatewayError(408, message, code="request_timeout", close=True)


def contended(what: str) -> GatewayError:
    """The gateway's own bounds are reached."""
    return GatewayError(
        429,
        f"The gateway is busy: {what}; try again in {RETRY_AFTER_CONTENDED} s.",
        kind="rate_limit_error",
        code="gateway_busy",
        headers={"Retry-After": str(RETRY_AFTER_CONTENDED)},
        close=True,
    )


def unavailable(
    message: str, code: str = "no_endpoint", retry_after: int = RETRY_AFTER_UNAVAILABLE
) -> GatewayError:
    """The deployment has no pod that could answer."""
    return GatewayError(
        503, message, kind="server_error", code=code, headers={"Retry-After": str(retry_after)}
    )


def bad_gateway(message: str) -> GatewayError:
    """The pod broke off."""
    return GatewayError(502, message, kind="server_error", code="upstream_failed")


def gateway_timeout(message: str) -> GatewayError:
    """The pod stayed silent."""
    return GatewayError(504, message, kind="server_error", code="upstream_timeout")


def shorten(text: str, limit: int = 128) -> str:
    """Return `text`, cut to a length that fits a sentence."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
