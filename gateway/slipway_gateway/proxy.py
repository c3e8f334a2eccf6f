"""The way of a request: what is asked for, which pod gets it, which pod gets it next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

from slipway_gateway import answer, errors, fair, headers, retry, upstream
from slipway_gateway.delivery import Delivery, Reader
from slipway_gateway.limits import Admission, Buffer, Limits, Timeouts
from slipway_gateway.meter import Meter
from slipway_gateway.metrics import Metrics
from slipway_gateway.objects import Endpoint
from slipway_gateway.record import UPSTREAM_FAILED, Record
from slipway_gateway.refusals import no_pod
from slipway_gateway.room import Place, Room
from slipway_gateway.tenants import Caller
from slipway_gateway.world import World


class Proxy:
    """Carries requests to pods."""

    def __init__(
        self,
        world: World,
        session: aiohttp.ClientSession,
        reader: Reader,
        room: Room,
        meter: Meter,
        admission: Admission,
        metrics: Metrics,
        limits: Limits,
        timeouts: Timeouts,
    ) -> None:
        self._world = world
        self._session = session
        self._admission = admission
        self._metrics = metrics
        self._limits = limits
        self._timeouts = timeouts
        self._reader = reader
        self._room = room
        self._meter = meter

    async def carry(
        self, request: web.BaseRequest, path: str, caller: Caller, record: Record
    ) -> web.StreamResponse:
        """Answer a POST on one of the API's routes."""
        buffer = Buffer(self._admission, self._limits)
        try:
            raw = await self._receive(request, buffer)
            record.bytes_in = len(raw)
            return await self._deliver(self._reader.understand(request, path, raw, caller, record))
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

    async def _deliver(self, delivery: Delivery) -> web.StreamResponse:
        delivery.pods.budget.earn()
        record, caller = delivery.record, delivery.caller
        tokens = delivery.prompt_tokens + delivery.answer_tokens
        reservation = self._meter.reserve(caller.tenant, caller.allowance, delivery.key, tokens)
        record.limits = reservation.headers
        try:
            return await self._in_its_place(delivery)
        except asyncio.CancelledError:
            record.tally.prompt = delivery.prompt_tokens if record.pod else 0
            raise
        finally:
            self._meter.settle(reservation, record.tally.total())

    async def _in_its_place(self, delivery: Delivery) -> web.StreamResponse:
        record, tally = delivery.record, delivery.record.tally
        place = await self._room.enter(delivery.ask)
        record.held = place.waited
        try:
            return await self._send(delivery, place)
        finally:
            place.end(fair.work(tally.prompt, tally.answer))

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
        kept = headers.to_client(response.headers, record.request_id) | record.limits
        if response.status < 400:
            record.tally.prompt = delivery.prompt_tokens  # until the engine says better
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


@contextmanager
def _on_its_way(delivery: Delivery, endpoint: Endpoint) -> Iterator[None]:
    delivery.tried.append(endpoint)
    delivery.record.pod = endpoint.pod
    delivery.pods.balancer.started(endpoint)
    try:
        yield
    finally:
        delivery.pods.balancer.ended(endpoint)
