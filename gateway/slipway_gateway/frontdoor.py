"""The door: which route it is, who calls, whether there is room; and one line written about each request."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import web

from slipway_gateway import answer, errors, headers
from slipway_gateway.delivery import find
from slipway_gateway.limits import Admission
from slipway_gateway.metrics import Metrics
from slipway_gateway.objects import Key
from slipway_gateway.proxy import Proxy
from slipway_gateway.record import CLIENT_LEFT, OK, REFUSED, Record
from slipway_gateway.routing import EVERYTHING
from slipway_gateway.tenants import Caller, authenticate
from slipway_gateway.world import World

log = logging.getLogger(__name__)

POST_ROUTES: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
MODELS: Final = "/v1/models"
CLIENT_CLOSED_REQUEST: Final = 499

ANYBODY: Final = Caller(tenant="", key_id="", sight=EVERYTHING, salt=None)


class Guard(Protocol):
    """Says who is calling."""

    def caller(self, authorization: str) -> Caller:
        """Return the caller, or refuse."""


class Log(Protocol):
    """Who writes down the requests."""

    def write(self, record: Record) -> None:
        """Write down a request that is over."""


class NoGuard:
    """`--auth-mode none`: everybody may see everything."""

    def caller(self, authorization: str) -> Caller:
        """Return anybody."""
        return ANYBODY


class TenantGuard:
    """`--auth-mode tenants`: a key stands for a tenant."""

    def __init__(self, world: World, namespace: str) -> None:
        self._world = world
        self._namespace = namespace

    def caller(self, authorization: str) -> Caller:
        """Return the key's tenant, or refuse."""
        return authenticate(self._world.keyring(), authorization, self._namespace)


class FrontDoor:
    """Answers every request."""

    def __init__(
        self,
        world: World,
        guard: Guard,
        proxy: Proxy,
        admission: Admission,
        metrics: Metrics,
        access_log: Log,
        exporter: Log | None = None,
    ) -> None:
        self._world = world
        self._guard = guard
        self._proxy = proxy
        self._admission = admission
        self._metrics = metrics
        self._logs: list[Log] = [access_log, *([exporter] if exporter else [])]
        self.ended: Callable[[Record], None] = lambda _: None
        """Called with the record of each request that is over."""
        self.closing = False
        """Set when the gateway goes away: each answer is its connection's last."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and write it down."""
        record = Record(headers.request_id(request.headers), request.method, _route(request.path))
        try:
            response = await self._answer(request, record)
        except asyncio.CancelledError:
            record.outcome, record.status = CLIENT_LEFT, CLIENT_CLOSED_REQUEST
            raise
        except answer.ClientLeft:
            record.status = CLIENT_CLOSED_REQUEST
            raise ConnectionResetError from None
        finally:
            self._write(record)
            self.ended(record)
        if self.closing:
            response.force_close()
        return response

    def unreadable(self, status: int) -> None:
        """Write down a request of which not even the head could be read."""
        record = Record("", "", "other", outcome=REFUSED, status=status)
        self._write(record)

    def _write(self, record: Record) -> None:
        self._metrics.finished(record)
        for each in self._logs:
            each.write(record)

    async def _answer(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        try:
            self._admission.enter()
            try:
                return await self._dispatch(request, record)
            finally:
                self._admission.leave()
        except errors.GatewayError as refusal:
            return _refused(refusal, record)
        except ConnectionError:
            raise answer.ClientLeft from None

    async def _dispatch(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        path = request.path
        if path in POST_ROUTES:
            _require(request, "POST")
        elif record.route == MODELS:
            _require(request, "GET")
        else:
            raise errors.not_found(path)
        caller = self._guard.caller(request.headers.get("Authorization", ""))
        record.tenant, record.key_id = caller.tenant, caller.key_id
        if path in POST_ROUTES:
            with self._admission.tenant(caller.tenant):
                return await self._proxy.carry(request, path, caller, record)
        return self._models(path.removeprefix(MODELS).removeprefix("/"), caller, record)

    def _models(self, name: str, caller: Caller, record: Record) -> web.Response:
        routes = self._world.routes()
        if name:
            content: object = _model(name, find(routes, name, caller.sight).key)
        else:
            data = [_model(held, deployment.key) for held, deployment in routes.names(caller.sight)]
            content = {"object": "list", "data": data}
        body = json.dumps(content).encode()
        record.status, record.bytes_out = 200, len(body)
        return _json(200, body, {headers.REQUEST_ID: record.request_id})


def _model(name: str, key: Key) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": key.namespace, "root": str(key)}


def _route(path: str) -> str:
    if path in POST_ROUTES:
        return path
    return MODELS if path == MODELS or path.startswith(MODELS + "/") else "other"


def _require(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        raise errors.method_not_allowed(request.path, method)


def _refused(refusal: errors.GatewayError, record: Record) -> web.Response:
    if record.outcome == OK:
        record.outcome = REFUSED
    body = refusal.body()
    record.status, record.bytes_out = refusal.status, len(body)
    response = _json(refusal.status, body, refusal.headers | {headers.REQUEST_ID: record.request_id})
    if refusal.close:
        response.force_close()
    return response


def _json(status: int, body: bytes, more: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=body, headers=more, content_type="application/json")
