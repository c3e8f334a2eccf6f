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
    host = _address((pod.get("status") or {}).get("podIP"))
    if host is None:
        return None
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            url = f"http://{host}:{PROGRESS_PORT}/progress"
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                return read(await answer.content.read(MAX_ANSWER))
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None


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
