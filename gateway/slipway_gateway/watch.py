"""Follows one kind of object: a paged list, then a watch from its version, for ever.

A version that the API server no longer has (410, as a status or in the stream) leads to a new list; any other
trouble to a new watch from the last version seen, after a growing pause. What was learnt stays in the sink
meanwhile: an API server that is away makes the picture old, never empty.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from slipway_gateway.kube import Access

log = logging.getLogger(__name__)

PAGE = 500
WATCH_SECONDS = 290
"""How long the server holds a watch; a connection that died silently is noticed soon after."""
LINE_LIMIT = 8 * 1024 * 1024
PAUSE_FIRST = 0.5
PAUSE_MAX = 30.0
STEADY_SECONDS = 30.0
"""A watch that held this long was good: the next pause starts small again."""


class Expired(Exception):
    """The API server no longer has this version (410)."""


class ApiFailure(Exception):
    """The API server refused, or said what makes no sense."""


class Sink(Protocol):
    """Takes what a watch learns."""

    def replace(self, objects: list[Any]) -> None:
        """These slim records are all there are."""

    def put(self, obj: Any) -> None:
        """This object exists, in this form."""

    def remove(self, obj: Any) -> None:
        """This object is gone."""

    def slim(self, obj: Any) -> Any:
        """Return what is kept of an object (None for nothing)."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What is followed: a path of the API, with a selector."""

    name: str
    path: str
    selector: str = ""

    def params(self, **more: str) -> dict[str, str]:
        """Return the query of a request."""
        return more | ({"labelSelector": self.selector} if self.selector else {})


class Follower:
    """Keeps a sink equal to what the API server holds."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        access: Access,
        resource: Resource,
        sink: Sink,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_first: float = PAUSE_FIRST,
    ) -> None:
        self._session = session
        self._access = access
        self.resource = resource
        self._sink = sink
        self._clock = clock
        self._pause_first = pause_first
        self._pause = pause_first
        self._version: str | None = None
        self._trouble = ""
        self.synced = False
        """Whether the sink was ever complete."""
        self.heard = clock()
        """When the API server last said something."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            began = self._clock()
            try:
                await self._once()
            except Expired:
                log.info("%s: version expired, listing again", self.resource.name)
                self._version = None
            except (aiohttp.ClientError, TimeoutError, OSError, ApiFailure) as error:
                self._complain(error)
            else:
                if self._clock() - began > 1.0:
                    continue  # the server ended the watch in good order
            if self._clock() - began > STEADY_SECONDS:
                self._pause = self._pause_first
            await asyncio.sleep(random.uniform(self._pause / 2, self._pause))  # noqa: S311
            self._pause = min(self._pause * 2, PAUSE_MAX)

    def _complain(self, error: Exception) -> None:
        trouble = f"{type(error).__name__}: {error}"
        if trouble != self._trouble:
            log.warning("%s: %s; routing goes on with what is known", self.resource.name, trouble)
        self._trouble = trouble

    def _alive(self) -> None:
        self.heard = self._clock()
        if self._trouble:
            log.info("%s: the API server answers again", self.resource.name)
            self._trouble = ""

    async def _once(self) -> None:
        if self._version is None:
            await self._list()
        await self._watch()

    async def _list(self) -> None:
        records, token = [], ""
        while True:
            params = self.resource.params(limit=str(PAGE), **({"continue": token} if token else {}))
            async with self._get(params, total=60.0) as response:
                page = await self._read_page(response)
            records += [r for r in map(self._sink.slim, page.get("items") or []) if r is not None]
            meta = page.get("metadata") or {}
            token = meta.get("continue") or ""
            if not token:
                break
        self._sink.replace(records)
        self._version = meta.get("resourceVersion") or "0"
        self.synced = True
        self._alive()

    async def _read_page(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        try:
            page = json.loads(await response.read())
        except ValueError as error:
            raise ApiFailure(f"a list is not JSON: {error}") from None
        if not isinstance(page, dict):
            raise ApiFailure("a list is not an object")
        return page

    async def _watch(self) -> None:
        params = self.resource.params(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=self._version or "0",
            timeoutSeconds=str(WATCH_SECONDS),
        )
        async with self._get(params, total=WATCH_SECONDS + 30.0) as response:
            self._alive()
            async for line in lines(response.content):
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind, obj = event["type"], event["object"]
            version = obj["metadata"]["resourceVersion"] if kind != "ERROR" else ""
        except (ValueError, KeyError, TypeError):
            raise ApiFailure("a watch event cannot be read") from None
        if kind == "ERROR":
            raise _failure(obj)
        if kind in ("ADDED", "MODIFIED"):
            self._sink.put(obj)
        elif kind == "DELETED":
            self._sink.remove(obj)
        self._version = version
        self._pause = self._pause_first
        self._alive()

    def _get(self, params: dict[str, str], total: float) -> _Checked:
        return _Checked(self._session, self._access, self.resource, params, total)


def _failure(status: Any) -> Exception:
    code = status.get("code") if isinstance(status, dict) else None
    message = status.get("message", "") if isinstance(status, dict) else ""
    return Expired() if code == 410 else ApiFailure(f"the watch ended with {code}: {message}"[:300])


class _Checked:
    """One GET whose status was looked at."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        access: Access,
        resource: Resource,
        params: dict[str, str],
        total: float,
    ) -> None:
        self._session = session
        self._access = access
        self._resource = resource
        self._params = params
        self._timeout = aiohttp.ClientTimeout(total=total, sock_connect=5.0)
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        response = self._response = await self._session.get(
            self._access.server + self._resource.path,
            params=self._params,
            headers=await self._access.headers(),
            ssl=self._access.tls if self._access.tls is not None else True,
            timeout=self._timeout,
            allow_redirects=False,
        )
        if response.status != 200:
            response.close()
            raise self._refusal(response.status)
        return response

    async def __aexit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.close()

    def _refusal(self, status: int) -> Exception:
        if status == 410:
            return Expired()
        what = {
            401: "the API server does not accept this gateway's token",
            403: f"grant this gateway's service account get, list and watch on {self._resource.name}",
            404: f"the API server knows no {self._resource.name}; install the CustomResourceDefinition",
        }.get(status, "the API server refused")
        return ApiFailure(f"{what} (status {status})")


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, each bounded."""
    partial = bytearray()
    async for piece in content.iter_any():
        partial += piece
        if b"\n" not in piece:
            if len(partial) > LINE_LIMIT:
                raise ApiFailure(f"a watch event is longer than {LINE_LIMIT} bytes")
            continue
        *whole, rest = bytes(partial).split(b"\n")
        partial = bytearray(rest)
        for line in whole:
            if line.strip():
                yield line
