"""What the autoscaler counts of itself, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from slipway_operator.autoscale.load import Load
from slipway_operator.autoscale.needs import in_flight
from slipway_operator.autoscale.terms import Decision
from slipway_operator.kinds import Key

_OBJECT = ("namespace", "name")


class Counters:
    """The autoscaler's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._desired = Gauge(
            "slipway_autoscaler_desired_replicas", "Replicas wanted.", _OBJECT, registry=registry
        )
        self._ready = Gauge(
            "slipway_autoscaler_ready_replicas", "Replicas that serve.", _OBJECT, registry=registry
        )
        self._load = Gauge(
            "slipway_autoscaler_requests",
            "Requests in the pods that report, and at gateways.",
            _OBJECT,
            registry=registry,
        )
        self._capacity = Gauge(
            "slipway_autoscaler_replica_capacity",
            "Requests in flight that one replica bears.",
            _OBJECT,
            registry=registry,
        )
        self._silent = Gauge(
            "slipway_autoscaler_silent_pods",
            "Ready pods without a fresh sample.",
            _OBJECT,
            registry=registry,
        )
        self._decisions = Counter(
            "slipway_autoscaler_decisions", "Decisions, by reason.", ["reason"], registry=registry
        )
        self.seconds = Histogram(
            "slipway_autoscaler_round_seconds",
            "Duration of one round of decisions over all objects.",
            buckets=(0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
            registry=registry,
        )

    def note(self, key: Key, decision: Decision, load: Load, bears: float) -> None:
        """Take in one decision."""
        self._desired.labels(*key).set(decision.replicas)
        self._ready.labels(*key).set(load.ready)
        self._load.labels(*key).set(in_flight(load))
        self._capacity.labels(*key).set(bears)
        self._silent.labels(*key).set(load.silent)
        self._decisions.labels(decision.why.value).inc()

    def forget(self, key: Key) -> None:
        """An object is gone, or decides itself."""
        for gauge in (self._desired, self._ready, self._load, self._capacity, self._silent):
            gauge.remove_by_labels({"namespace": key.namespace, "name": key.name})
