"""What the operator counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "slipway_operator_reconcile_seconds",
            "Duration of one reconcile.",
            ["outcome"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(
            "slipway_operator_errors",
            "Reconciles that have to be tried again, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._requests = Counter(
            "slipway_operator_api_requests",
            "Requests to the API server, kopf's watches aside.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.events = Counter(
            "slipway_operator_watch_events", "Watch events taken in.", ["resource"], registry=self.registry
        )
        self.healed = Counter(
            "slipway_operator_store_healed",
            "Objects whose change a relist found before the watch told of it.",
            ["resource"],
            registry=self.registry,
        )
        self.leader = Gauge(
            "slipway_operator_leader", "1 where this replica holds the Lease.", registry=self.registry
        )

    def count_request(self, verb: str, resource: str, code: str) -> None:
        """Count one request to the API server."""
        self._requests.labels(verb, resource, code).inc()

    def watch_gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when Prometheus asks."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def watch_gauge_by(self, name: str, help_text: str, label: str) -> Gauge:
        """Add a gauge with one label, whose children the caller sets."""
        return Gauge(name, help_text, [label], registry=self.registry)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
