"""How far a download has come, asked of the pod that downloads.

The pod has no right on any API and the operator none on logs, so the pod answers one path over HTTP. The
address is the one that the kubelet reported for a pod of our own Job, never one that a user wrote; the answer
may be anything, so it is short, bounded, and three numbers or nothing.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import aiohttp

from slipway_operator.kinds import Object
from slipway_operator.plan.cache import PROGRESS_PORT, Progress

TIMEOUT_SECONDS = 2.0
MAX_ANSWER = 1024
MAX_BYTES = 1 << 50


async def ask(pod: Object) -> Progress | None:
    """Return what a pod says of its download; None where it says nothing that can be read."""
    answer = await answer_of(pod, PROGRESS_PORT, "/progress", MAX_ANSWER)
    return None if answer is None else read(answer)


async def answer_of(pod: Object, port: int, path: str, most: int) -> bytes | None:
    """Return the first `most` bytes that one of our pods answers; None where it does not answer well."""
    host = _address((pod.get("status") or {}).get("podIP"))
    if host is None:
        return None
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(f"http://{host}:{port}{path}", allow_redirects=False) as answer,
        ):
            return await _first(answer.content, most) if answer.status == 200 else None
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None


async def _first(content: aiohttp.StreamReader, most: int) -> bytes:
    found = bytearray()
    while len(found) < most and (chunk := await content.read(most - len(found))):
        found += chunk
    return bytes(found)


def read(text: bytes) -> Progress | None:
    """Return the three numbers of an answer, where there are three."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    fetched, total, rate = (_number(value.get(name)) for name in ("bytes", "total", "rate"))
    return None if fetched is None or rate is None else Progress(fetched, total, rate)


def _number(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MAX_BYTES else None


def _address(text: Any) -> str | None:
    """Return a pod's address as it stands in a URL; None for what is none, or is the node's own."""
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return None
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return None
    return f"[{address}]" if address.version == 6 else str(address)
