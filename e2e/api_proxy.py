"""A reverse proxy in front of the API server that fails, where a test says so, as networks and servers do.

It speaks plain HTTP on loopback, holds the administrator's certificate itself and may speak for somebody else
(impersonation), so that a program behind it has the rights of its role. A rule sees each request first.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp import web

from e2e.fake_nodes import connect

_KEPT: Final = ("Content-Type", "Content-Encoding", "Retry-After", "Date", "Warning")
_DROPPED: Final = frozenset({"host", "authorization", "content-length", "transfer-encoding", "connection"})
EXPIRED: Final = {
    "type": "ERROR",
    "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410},
}


@dataclass(frozen=True)
class Request:
    """What is asked of the API server. `name` is empty for lists, `namespace` for the whole cluster."""

    method: str
    resource: str
    namespace: str
    name: str
    watches: bool

    @property
    def writes(self) -> bool:
        """Return whether it changes something that lasts; a Lease does not."""
        return self.method != "GET" and self.resource != "leases"


@dataclass(frozen=True)
class Refused:
    """The API server's own refusal, which has not heard of the request."""

    status: int
    retry_after: int | None = None


@dataclass(frozen=True)
class Cut:
    """The connection breaks: before the API server hears of it or, of a watch, after some seconds."""

    after: float = 0.0


@dataclass(frozen=True)
class Lost:
    """The API server does what is asked and the answer gets lost. `then` is called in between."""

    then: Callable[[], None] | None = None


@dataclass(frozen=True)
class Silence:
    """No answer comes, and the API server never hears of it."""


@dataclass(frozen=True)
class Expired:
    """A watch is told that its resource version is too old."""


Fault: TypeAlias = Refused | Cut | Lost | Silence | Expired
Rule: TypeAlias = Callable[[Request], Fault | None]


def request_of(method: str, path: str, query: Mapping[str, str]) -> Request:
    """Return what an URL of the API means."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "", "")[:3]
    full = f"{resource}/{subresource}" if subresource else resource
    return Request(method, full, namespace, name, query.get("watch") in ("1", "true"))


class Proxy:
    """The proxy, in a thread of its own from `with` to its end.

    `rule` may be replaced at any time; `writes` are the writes that the API server answered, or refused
    itself, in order.
    """

    def __init__(self, kubeconfig: str, account: str = "") -> None:
        self._upstream, self._account = kubeconfig, account
        self.rule: Rule = lambda request: None
        self.writes: list[Request] = []
        self.faults = 0
        self._ready, self._port = threading.Event(), 0
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Proxy:
        self._thread.start()
        if not self._ready.wait(30):
            raise TimeoutError("the proxy did not start")
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here, and return its path."""
        named: Any = {"name": "proxy"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{self._port}"}}],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": {"cluster": "proxy", "user": "proxy"}}],
        }
        path.write_text(json.dumps(config))
        return path

    async def _serve(self) -> None:
        async with connect(256, kubeconfig=self._upstream, raw=True) as self._session:
            application = web.Application(client_max_size=8 << 20)
            application.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._port = runner.addresses[0][1]
            self._ready.set()
            await self._end.wait()
            await runner.cleanup()

    async def _answer(self, incoming: web.Request) -> web.StreamResponse:
        request = request_of(incoming.method, incoming.path, incoming.query)
        body = await incoming.read()
        fault = self.rule(request)
        self.faults += fault is not None
        match fault:
            case Refused():
                return _refusal(fault)
            case Silence():
                await asyncio.Event().wait()
            case Expired():
                return web.Response(text=json.dumps(EXPIRED) + "\n", content_type="application/json")
            case Cut() if not request.watches:
                return _cut(incoming)
        headers = {k: v for k, v in incoming.headers.items() if k.lower() not in _DROPPED}
        if self._account:
            headers["Impersonate-User"] = self._account
        async with self._session.request(
            incoming.method, incoming.raw_path, data=body or None, headers=headers, timeout=_NO_TIMEOUT
        ) as answer:
            if request.writes:
                self.writes.append(request)
            if isinstance(fault, Lost):
                await answer.read()
                if fault.then is not None:
                    fault.then()
                return _cut(incoming)
            return await _pass_on(incoming, answer, fault.after if isinstance(fault, Cut) else None)


_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)


async def _pass_on(
    incoming: web.Request, answer: aiohttp.ClientResponse, seconds: float | None
) -> web.StreamResponse:
    """Stream an answer, for so many seconds at most."""
    kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
    outgoing = web.StreamResponse(status=answer.status, headers=kept)
    try:
        await outgoing.prepare(incoming)
        async with asyncio.timeout(seconds):
            async for chunk in answer.content.iter_any():
                await outgoing.write(chunk)
    except (TimeoutError, ConnectionError, aiohttp.ClientError):
        return _cut(incoming, outgoing)
    await outgoing.write_eof()
    return outgoing


def _refusal(fault: Refused) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.status}
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return web.json_response({**status, "message": "as the test asked"}, status=fault.status, headers=headers)


def _cut(incoming: web.Request, outgoing: web.StreamResponse | None = None) -> web.StreamResponse:
    """Break the connection off without an answer, or in its middle."""
    if incoming.transport is not None:
        incoming.transport.abort()
    return outgoing or web.Response(status=502)
