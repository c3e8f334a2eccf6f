"""Whose token it is: the API server's word, by TokenReview, remembered by the token's hash.

A word counts for a minute; while the API server is away, for ten. The audience is this gateway's own, so a
token that a pod got for the API server opens nothing here, and one for here opens nothing there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from slipway_gateway.kube import Access

log = logging.getLogger(__name__)

AUDIENCE: Final = "slipway-gateway"
PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
FRESH_SECONDS: Final = 60.0
STALE_SECONDS: Final = 600.0
MAX_REMEMBERED: Final = 1024
MAX_AT_ONCE: Final = 4
MAX_TOKEN: Final = 16 * 1024


class NoAnswer(Exception):
    """The API server says nothing, and nothing it said counts any more."""


@dataclass(frozen=True, slots=True)
class Word:
    """What the API server said."""

    user: str | None
    """None: the token is not valid for this audience."""
    at: float


class Reviews:
    """Asks the API server about tokens."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        access: Access,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._access = access
        self._clock = clock
        self._words: OrderedDict[bytes, Word] = OrderedDict()
        self._trouble = ""
        # Whoever reaches the port can send tokens; the API server does not pay for it.
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)

    async def user(self, token: str) -> str | None:
        """Return the user whose token it is, None where it is nobody's. Raises NoAnswer."""
        if not token or len(token) > MAX_TOKEN:
            return None
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        if (word := self._words.get(digest)) and self._clock() - word.at < FRESH_SECONDS:
            return word.user
        async with self._at_once:
            try:
                user = await self._ask(token)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self._complain(f"{type(error).__name__}: {error}")
                if word is None or self._clock() - word.at >= STALE_SECONDS:
                    raise NoAnswer from None
                return word.user
        self._trouble = ""
        self._remember(digest, Word(user, self._clock()))
        return user

    def _complain(self, trouble: str) -> None:
        # Once: an API server that is away is asked again with every poll.
        if trouble != self._trouble:
            log.warning("tokenreviews: %s; what was said before counts for ten minutes", trouble)
        self._trouble = trouble

    async def _ask(self, token: str) -> str | None:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        async with self._session.post(
            self._access.server + PATH,
            json=body,
            headers=await self._access.headers(),
            ssl=self._access.tls if self._access.tls is not None else True,
            timeout=aiohttp.ClientTimeout(total=10.0, sock_connect=5.0),
            allow_redirects=False,
        ) as response:
            if response.status not in (200, 201):
                raise ValueError(
                    f"status {response.status}; grant this gateway's service account create on tokenreviews"
                )
            return _user(json.loads(await response.read()))

    def _remember(self, digest: bytes, word: Word) -> None:
        self._words[digest] = word
        self._words.move_to_end(digest)
        while len(self._words) > MAX_REMEMBERED:
            self._words.popitem(last=False)


def _user(review: Any) -> str | None:
    """Return the user of an answered review. Raises ValueError where it makes no sense."""
    status = review.get("status") if isinstance(review, dict) else None
    if not isinstance(status, dict):
        raise ValueError("a TokenReview came back without a status")
    # A server that knows no audiences returns none: its word is about itself, not about us.
    if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or ()):
        return None
    user = status.get("user")
    name = user.get("username") if isinstance(user, dict) else None
    return name if isinstance(name, str) and name else None
