"""Which headers cross the gateway: a short list each way, so hop-by-hop ones, keys and cookies never do."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Final

REQUEST_ID: Final = "x-request-id"

_TO_POD: Final = ("Accept", "User-Agent", "tracestate", "baggage")
_TO_CLIENT: Final = ("Content-Type", "Cache-Control", "Retry-After", "openai-processing-ms", "openai-model")
_PATIENCE: Final = ("x-stainless-read-timeout", "x-stainless-timeout")
"""Seconds that OpenAI's clients say they wait."""
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's request id where it is one, or a new one."""
    given = headers.get(REQUEST_ID, "")
    return given if _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


def patience(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the client waits for an answer to begin, where it says so."""
    given = [headers[name] for name in _PATIENCE if _SECONDS.fullmatch(headers.get(name, ""))]
    return min(map(float, given), default=None)


def to_pod(headers: Mapping[str, str], identity: str) -> dict[str, str]:
    """Return the headers of the request to the pod.

    A request that is part of no trace begins one, and is marked as sampled: the engine's own sampler decides
    then as it would without a parent, where it goes by the trace's id.
    """
    kept = {name: headers[name] for name in _TO_POD if name in headers}
    traceparent = headers.get("traceparent", "")
    if _TRACEPARENT.fullmatch(traceparent):
        kept["traceparent"] = traceparent
    else:
        kept.pop("tracestate", None)  # means nothing without its parent
        kept["traceparent"] = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    # The pod answers uncompressed: server-sent events are looked into for their boundaries.
    return kept | {"Content-Type": "application/json", "Accept-Encoding": "identity", REQUEST_ID: identity}


def trace_id(kept: Mapping[str, str]) -> str:
    """Return the id of the trace that a request to a pod is part of."""
    return kept["traceparent"].split("-")[1]


def to_client(headers: Mapping[str, str], identity: str) -> dict[str, str]:
    """Return the headers of the response to the client."""
    kept = {name: value for name in _TO_CLIENT if (value := headers.get(name)) is not None}
    kept.update((n, v) for n, v in headers.items() if n.lower().startswith("x-ratelimit-"))
    return kept | {REQUEST_ID: identity}
