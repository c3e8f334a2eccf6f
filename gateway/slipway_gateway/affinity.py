"""Which pod saw the same beginning: consistent hashing with bounded loads. Pure.

A prompt's beginning is hashed onto a ring on which every pod stands many times; the next pod along the ring
gets the request, so the same beginning goes to the same pod (whose prefix cache holds it), and a pod that
comes or goes moves only its own share. A pod busier than the bound passes the request on along the ring: one
hot beginning spreads instead of drowning its pod (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing
with Bounded Loads", 2016).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from slipway_gateway.objects import Endpoint

POINTS: Final = 256
"""Places of a pod on the ring: shares differ by some percent then."""

LOAD_FACTOR: Final = 1.25
LOAD_SLACK: Final = 4
"""A pod may carry so much more than the mean; few requests are no load."""

MAX_PARTS: Final = 64
"""Messages, and parts of one, that are looked at."""


class Ring:
    """The pods of one deployment on the ring."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._count = len(endpoints)
        places = sorted(
            (_hash(f"{endpoint.uid}\0{point}".encode()), endpoint)
            for endpoint in endpoints
            for point in range(POINTS)
        )
        self._places = [place for place, _ in places]
        self._owners = [endpoint for _, endpoint in places]

    def along(self, prefix: bytes) -> Iterator[Endpoint]:
        """Yield every pod once, in the order in which they follow `prefix`."""
        seen: set[Endpoint] = set()
        start = bisect(self._places, _hash(prefix))
        for step in range(len(self._owners)):
            owner = self._owners[(start + step) % len(self._owners)]
            if owner not in seen:
                seen.add(owner)
                yield owner
                if len(seen) == self._count:
                    return


def bound(outstanding: int, pods: int) -> float:
    """Return the most requests that a pod may carry, the new one included; `outstanding` is that of all."""
    mean = (outstanding + 1) / max(1, pods)
    return max(LOAD_FACTOR * mean, mean + LOAD_SLACK)


def beginning(body: Mapping[str, Any], characters: int, salt: str | None) -> bytes:
    """Return the beginning of a request's prompt, and the tenant's salt: caches of tenants are apart anyway.

    `body` maps a member's name to its value: `prompt` (text or token ids), `messages`, or `input`.
    """
    pieces: list[str] = []
    left = characters
    for text in _texts(body):
        pieces.append(text[:left])
        left -= len(pieces[-1])
        if left <= 0:
            break
    return "\0".join([salt or "", *pieces]).encode(errors="surrogatepass")


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    messages = body.get("messages")
    if isinstance(messages, list):
        for message in messages[:MAX_PARTS]:
            if isinstance(message, dict):
                yield str(message.get("role"))
                yield from _content(message.get("content"))
        return
    prompt = body.get("prompt", body.get("input"))
    first = prompt[0] if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else prompt
    yield first if isinstance(first, str) else str(first[:4096] if isinstance(first, list) else first)


def _content(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content[:MAX_PARTS]:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def _hash(value: bytes) -> int:
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big")
