"""Sends the usage records to an OpenTelemetry collector as log records: OTLP over HTTP, in its JSON encoding.

Records wait in memory for at most a second, then go in one request; while the collector is away, or asks for
patience, they wait longer, up to a bound, after which the oldest are lost and counted. So a gateway that is
killed loses what waits: usually a second's worth. One that is asked to end sends the rest first. An answer
that is lost makes the same records come twice: `request_id` tells. The protocol is OpenTelemetry's OTLP 1.x;
the collector's address and headers have the environment variables of its exporters.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiohttp
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from slipway_gateway.record import Record, fields

log = logging.getLogger(__name__)

PATH: Final = "/v1/logs"
MOST_WAITING: Final = 16_384
MOST_AT_ONCE: Final = 512
EVERY: Final = 1.0
"""Seconds between two requests, where there is something to send."""
PATIENCE: Final = 10.0
"""Seconds for one request."""
LONGEST_PAUSE: Final = 30.0
GOODBYE: Final = 5.0
TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
INFO: Final = 9
"""The severity's number in OpenTelemetry."""


class NoCollector(Exception):
    """The settings name no collector that could be reached."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where records go."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        # Headers carry the collector's key.
        return f"Target({self.url})"


def target_of(endpoint: str, environment: Mapping[str, str]) -> Target | None:
    """Return where records go, by an endpoint or the environment; None: nowhere. Raises NoCollector."""
    url = environment.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "") if not endpoint else ""
    base = endpoint or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    url = url or (base.rstrip("/") + PATH if base else "")
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NoCollector(f"--otlp-endpoint {url} is no URL; write one such as http://collector:4318.")
    given = environment.get("OTEL_EXPORTER_OTLP_LOGS_HEADERS") or environment.get(
        "OTEL_EXPORTER_OTLP_HEADERS", ""
    )
    pairs = (pair.partition("=") for pair in given.split(",") if pair.strip())
    return Target(url, {name.strip(): unquote(value.strip()) for name, _, value in pairs})


class Exporter(Collector):
    """What waits to be sent, and the one task that sends it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._waiting: deque[dict[str, Any]] = deque()
        self._pushed_out = 0
        self._refused = 0
        self._sent = 0

    def write(self, record: Record) -> None:
        """Take in the record of a request that is over."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._pushed_out += 1
        self._waiting.append(_log_record(fields(record), time.time_ns()))

    async def follow(self, session: aiohttp.ClientSession) -> None:
        """Send until cancelled."""
        pause, away = EVERY, False
        while True:
            await asyncio.sleep(pause)
            if not self._waiting:
                continue
            wait = await self._send(session)
            if (wait is not None) is not away:
                away = wait is not None
                log.warning(
                    "the collector at %s %s", self._target.url, "takes no records" if away else "is back"
                )
            if wait is None:
                pause = EVERY if len(self._waiting) < MOST_AT_ONCE else 0.0
            else:
                pause = min(max(wait, 2 * max(pause, EVERY)), LONGEST_PAUSE)

    async def finish(self, session: aiohttp.ClientSession) -> None:
        """Send what still waits, within some seconds."""
        try:
            async with asyncio.timeout(GOODBYE):
                while self._waiting and await self._send(session) is None:
                    pass
        except TimeoutError:
            pass
        if self._waiting:
            log.warning("%d usage records were not sent", len(self._waiting))

    async def _send(self, session: aiohttp.ClientSession) -> float | None:
        """Send one request. Return None where it is done with, else the seconds to wait at least."""
        batch, before = list(islice(self._waiting, MOST_AT_ONCE)), self._pushed_out
        try:
            async with session.post(
                self._target.url,
                data=json.dumps(_request(batch), separators=(",", ":")).encode(),
                headers={**self._target.headers, "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=PATIENCE),
                allow_redirects=False,
            ) as answer:
                content = await answer.content.read(65_536)
                if answer.status in TRY_AGAIN:
                    return _seconds(answer.headers.get("Retry-After", ""))
                refused = _refused(content) if answer.status < 300 else len(batch)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return EVERY
        # The first of the batch may have been pushed out meanwhile.
        for _ in range(len(batch) - (self._pushed_out - before)):
            self._waiting.popleft()
        self._refused += refused
        self._sent += len(batch) - refused
        if refused:
            log.warning("the collector refused %d usage records (%d)", refused, answer.status)
        return None

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the exporter's own metrics."""
        prefix = "slipway_gateway_usage_records_"
        yield CounterMetricFamily(prefix + "sent", "Usage records that a collector took.", value=self._sent)
        lost = self._pushed_out + self._refused
        yield CounterMetricFamily(prefix + "lost", "Usage records that no collector took.", value=lost)
        yield GaugeMetricFamily(
            prefix + "waiting", "Usage records that wait for a collector.", value=len(self._waiting)
        )


def _log_record(found: Mapping[str, Any], now: int) -> dict[str, Any]:
    trace = {"traceId": found["trace_id"]} if found["trace_id"] else {}
    return {
        **trace,
        "timeUnixNano": str(now),
        "observedTimeUnixNano": str(now),
        "severityNumber": INFO,
        "severityText": "INFO",
        "body": {"stringValue": str(found["kind"])},
        "attributes": [
            {"key": name, "value": _value(value)}
            for name, value in found.items()
            if value is not None and name not in ("kind", "time", "trace_id")
        ],
    }


def _value(value: object) -> dict[str, Any]:
    """Return a value in OTLP's JSON, which writes 64-bit integers as text."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _request(records: list[dict[str, Any]]) -> dict[str, Any]:
    resource = {"service.name": "slipway-gateway", "service.version": version("slipway")}
    attributes = [{"key": name, "value": {"stringValue": value}} for name, value in resource.items()]
    scope = {"scope": {"name": "slipway_gateway.usage"}, "logRecords": records}
    return {"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": [scope]}]}


def _refused(content: bytes) -> int:
    """Return how many records a collector that answered well left out."""
    try:
        count = json.loads(content)["partialSuccess"]["rejectedLogRecords"]
        return max(0, int(count))
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _seconds(text: str) -> float:
    return float(text[:6]) if text.isascii() and text.isdigit() else EVERY
