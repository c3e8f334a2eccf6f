"""What Prometheus may know: labels are bounded by the objects that exist, never by what clients send.

Series of a deployment that is gone are dropped.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from slipway_gateway.balance import Balancer
from slipway_gateway.limits import Admission
from slipway_gateway.objects import Key
from slipway_gateway.record import Record
from slipway_gateway.room import Room
from slipway_gateway.world import World

_CODES: Final = frozenset({200, 400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 502, 503, 504})
_OF: Final = ("namespace", "deployment")
_SECONDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PREFIX: Final = "slipway_gateway_"


class Metrics:
    """The gateway's counters."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            _PREFIX + "requests", "Requests by status code.", (*_OF, "code"), registry=registry
        )
        self._first_byte = Histogram(
            _PREFIX + "first_byte_seconds",
            "From a request's arrival to the first byte of its pod's response.",
            _OF,
            buckets=_SECONDS,
            registry=registry,
        )
        self._duration = Histogram(
            _PREFIX + "request_duration_seconds",
            "From a request's arrival to its end.",
            _OF,
            buckets=_SECONDS,
            registry=registry,
        )
        self._retries = Counter(_PREFIX + "retries", "Attempts after the first one.", _OF, registry=registry)
        self._failures = Counter(
            _PREFIX + "upstream_failures",
            "Attempts that a pod failed, by how.",
            (*_OF, "how"),
            registry=registry,
        )
        self._ejections = Counter(
            _PREFIX + "ejections", "Pods taken out of balancing after failures.", _OF, registry=registry
        )
        self._used: dict[Key, set[tuple[Counter | Histogram, tuple[str, ...]]]] = {}

    def finished(self, record: Record) -> None:
        """Count a request that is over."""
        key = record.deployment or Key("", "")
        code = str(record.status) if record.status in _CODES else "other"
        self._count(self._requests, key, code)
        if record.deployment is None:
            return
        self._observe(self._duration, key, record.seconds())
        if record.first_byte is not None:
            self._observe(self._first_byte, key, record.first_byte)

    def retried(self, key: Key) -> None:
        """Count another attempt."""
        self._count(self._retries, key)

    def failed(self, key: Key, how: str) -> None:
        """Count a pod's failure; `how` is one of this program's own words."""
        self._count(self._failures, key, how)

    def ejected(self, key: Key) -> None:
        """Count an ejection."""
        self._count(self._ejections, key)

    def forget(self, key: Key) -> None:
        """Drop the series of a deployment that is gone."""
        for metric, labels in self._used.pop(key, set()):
            metric.remove(*labels)

    def _count(self, counter: Counter, key: Key, *more: str) -> None:
        labels = (*key, *more)
        self._used.setdefault(key, set()).add((counter, labels))
        counter.labels(*labels).inc()

    def _observe(self, histogram: Histogram, key: Key, seconds: float) -> None:
        self._used.setdefault(key, set()).add((histogram, tuple(key)))
        histogram.labels(*key).observe(seconds)


class Picture(Collector):
    """Gauges that are read when they are asked for."""

    def __init__(
        self,
        world: World,
        admission: Admission,
        room: Room,
        balancers: Callable[[], Iterable[tuple[Key, Balancer]]],
        heard: Callable[[], Mapping[str, float]],
    ) -> None:
        self._world = world
        self._admission = admission
        self._room = room
        self._balancers = balancers
        self._heard = heard

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges as of now."""
        yield _plain("requests_in_progress", "Requests being carried.", self._admission.requests)
        yield _plain("buffered_bytes", "Bytes of requests being held.", self._admission.buffered)
        yield _plain("held_bytes", "Bytes of requests that wait for a place on a pod.", self._room.bytes)
        held = _family("held_requests", "Requests that wait for a place on a deployment's pods.")
        for key, count, _ in self._room.held():
            held.add_metric(key, count)
        yield held
        outstanding = _family("outstanding_requests", "Requests on their way to a deployment's pods.")
        ejected = _family("ejected_endpoints", "Pods that sit out after failures.")
        now = time.monotonic()
        for key, balancer in self._balancers():
            outstanding.add_metric(key, balancer.outstanding())
            ejected.add_metric(key, balancer.ejected(now))
        ready = _family("ready_endpoints", "Pods that may get requests.")
        for deployment in self._world.deployments:
            ready.add_metric(deployment.key, len(self._world.endpoints(deployment.key)))
        taken = _family("names_taken", "Names that a deployment claims and an older one holds.")
        lost = Counts(deployment.key for deployment, _, _ in self._world.routes().taken())
        for key, count in lost.items():
            taken.add_metric(key, count)
        yield from (outstanding, ejected, ready, taken)
        silence = GaugeMetricFamily(
            _PREFIX + "watch_silence_seconds",
            "Since the API server last said something.",
            labels=["resource"],
        )
        for resource, moment in self._heard().items():
            silence.add_metric([resource], max(0.0, now - moment))
        yield silence


def _family(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=_OF)


def _plain(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)
