"""The way of a request: what is asked for, which pod gets it, which pod gets it next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from slipway_gateway import affinity, answer, bodies, errors, headers, retry, upstream
from slipway_gateway.fleet import Fleet, Pods
from slipway_gateway.limits import Admission, Buffer, Limits, Timeouts
from slipway_gateway.metrics import Metrics
from slipway_gateway.objects import Deployment, Endpoint, Key
from slipway_gateway.record import UPSTREAM_FAILED, Record
from slipway_gateway.refusals import no_pod
from slipway_gateway.room import Ask, Place, Room
from slipway_gateway.routing import Routes, Sight, upstream_model
from slipway_gateway.tenants import Caller
from slipway_gateway.world import World


@dataclass(slots=True)
class Delivery:
    """A request on its way to one of its deployment's pods."""

    request: web.BaseRequest
    deployment: Deployment
    path: str
    body: bytes
    headers: dict[str, str]
    pods: Pods
    record: Record
    ask: Ask
    prefix: bytes | None = None
    """The beginning of the prompt, where it decides on the pod."""
    tried: list[Endpoint] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """The deployment's namespace and name."""
        return self.deployment.key


class Proxy:
    """Carries requests to pods."""

    def __init__(
        self,
        world: World,
        session: aiohttp.ClientSession,
        fleet: Fleet,
        room: Room,
        admission: Admission,
        metrics: Metrics,
        limits: Limits,
        timeouts: Timeouts,
        *,
        set_salt: bool,
    ) -> None:
        self._world = world
        self._session = session
        self._admission = admission
        self._metrics = metrics
        self._limits = limits
        self._timeouts = timeouts
        self._set_salt = set_salt
        self._fleet = fleet
        self._room = room

    async def carry(
        self, request: web.BaseRequest, path: str, caller: Caller, record: Record
    ) -> web.StreamResponse:
        """Answer a POST on one of the API's routes."""
        buffer = Buffer(self._admission, self._limits)
        try:
            raw = await self._receive(request, buffer)
            record.bytes_in = len(raw)
            return await self._deliver(self._understand(request, path, raw, caller, record))
        finally:
            buffer.release()

    async def _receive(self, request: web.BaseRequest, buffer: Buffer) -> bytes:
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise errors.unsupported_encoding(encoding)
        self._admission.check_announced(request.content_length)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # or else the answer's own headers would be taken as sent
        try:
            async with asyncio.timeout(self._timeouts.body):
                while piece := await request.content.readany():
                    buffer.add(piece)
        except TimeoutError:
            raise errors.slow_body(self._timeouts.body) from None
        except web.RequestPayloadError:
            raise errors.bad_framing() from None
        return buffer.content()

    def _understand(
        self, request: web.BaseRequest, path: str, raw: bytes, caller: Caller, record: Record
    ) -> Delivery:
        body = bodies.parse(raw)
        asked = body.get("model")
        if not isinstance(asked, str) or not asked:
            raise errors.bad_request("'model' is missing; name a model that GET /v1/models lists.", "model")
        deployment = find(self._world.routes(), asked, caller.sight)
        record.deployment = deployment.key
        changes: dict[str, str] = {}
        if (name := upstream_model(deployment, asked)) != asked:
            changes["model"] = name
        if self._set_salt and caller.salt is not None:
            changes["cache_salt"] = caller.salt
        return Delivery(
            request=request,
            deployment=deployment,
            path=path,
            body=body.with_members(changes) if changes else raw,
            headers=headers.to_pod(request.headers, record.request_id),
            pods=self._fleet.of(deployment.key),
            record=record,
            ask=Ask(deployment.key, caller.tenant, len(raw), len(raw) / 4, headers.patience(request.headers)),
            prefix=_prefix(deployment, body, caller),
        )

    async def _deliver(self, delivery: Delivery) -> web.StreamResponse:
        delivery.pods.budget.earn()
        place = await self._room.enter(delivery.ask)
        delivery.record.held = place.waited
        try:
            return await self._send(delivery, place)
        finally:
            place.end()

    async def _send(self, delivery: Delivery, place: Place) -> web.StreamResponse:
        endpoint = self._pick(delivery)
        if endpoint is None:
            raise no_pod(delivery.deployment)
        while True:
            with _on_its_way(delivery, endpoint):
                place.sent()
                result = await self._attempt(delivery, endpoint)
            if isinstance(result, web.StreamResponse):
                return result
            endpoint = result
            delivery.record.retries += 1
            self._metrics.retried(delivery.key)

    async def _attempt(self, delivery: Delivery, endpoint: Endpoint) -> web.StreamResponse | Endpoint:
        """Return the answer, or the pod to try next."""
        try:
            response = await upstream.send(
                self._session, delivery.key, endpoint, delivery.path, delivery.body, delivery.headers
            )
        except upstream.AttemptFailed as failure:
            self._note_failure(delivery, endpoint, failure.how)
            other = self._another(delivery) if failure.retry else None
            if other is None:
                delivery.record.outcome = UPSTREAM_FAILED
                raise failure.refusal from None
            return other
        try:
            if response.status not in retry.RETRY_STATUSES:
                delivery.pods.balancer.succeeded(endpoint)
            else:
                self._note_failure(delivery, endpoint, "status")
                if (other := self._another(delivery)) is not None:
                    return other
            return await self._pass_on(delivery, endpoint, response)
        finally:
            # Read to its end it goes back to the pool; otherwise closing it is what stops the engine.
            if not response.content.at_eof():
                response.close()

    async def _pass_on(
        self, delivery: Delivery, endpoint: Endpoint, response: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        record = delivery.record
        record.first_byte = record.seconds()
        kept = headers.to_client(response.headers, record.request_id)
        if response.status == 503:
            kept.setdefault("Retry-After", str(errors.RETRY_AFTER_UNAVAILABLE))
        try:
            out = await answer.pass_on(delivery.request, response, kept, record, self._timeouts.idle)
        except answer.BrokeOff as error:
            record.outcome = UPSTREAM_FAILED
            self._note_failure(delivery, endpoint, "midway")
            raise errors.bad_gateway(f"Pod {endpoint.pod} of {delivery.key} {error}; try again.") from None
        if record.outcome == UPSTREAM_FAILED:
            self._note_failure(delivery, endpoint, "midway")
        return out

    def _pick(self, delivery: Delivery) -> Endpoint | None:
        endpoints = self._world.endpoints(delivery.key)
        return delivery.pods.balancer.pick(endpoints, delivery.tried, time.monotonic(), delivery.prefix)

    def _another(self, delivery: Delivery) -> Endpoint | None:
        """Return a pod that was not tried yet, if the request may be tried once more."""
        other = self._pick(delivery)
        if other is None or not retry.may_retry(delivery.record.retries, delivery.pods.budget):
            return None
        return other

    def _note_failure(self, delivery: Delivery, endpoint: Endpoint, how: str) -> None:
        self._metrics.failed(delivery.key, how)
        if delivery.pods.balancer.failed(endpoint, time.monotonic()):
            self._metrics.ejected(delivery.key)


def _prefix(deployment: Deployment, body: bodies.Body, caller: Caller) -> bytes | None:
    if deployment.prefix_characters is None:
        return None
    prompt = {name: body.get(name) for name in ("messages", "prompt", "input") if name in body.members}
    return affinity.beginning(prompt, deployment.prefix_characters, caller.salt)


@contextmanager
def _on_its_way(delivery: Delivery, endpoint: Endpoint) -> Iterator[None]:
    delivery.tried.append(endpoint)
    delivery.record.pod = endpoint.pod
    delivery.pods.balancer.started(endpoint)
    try:
        yield
    finally:
        delivery.pods.balancer.ended(endpoint)


def find(routes: Routes, asked: str, sight: Sight) -> Deployment:
    """Return the deployment that `asked` means to a caller, or refuse with the names that would work."""
    deployment = routes.resolve(asked, sight)
    if deployment is None:
        raise errors.model_not_found(asked, (name for name, _ in routes.names(sight)))
    return deployment
