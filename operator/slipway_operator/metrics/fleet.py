"""What every LLMDeployment promises and how it is, for Prometheus: read from the store when it is asked for.

An object that is gone is gone from the next answer. Of the conditions there are those that people alert on.
A promise (`spec.slo`) is told as the histogram bounds that it falls between, since a query cannot choose
a bucket by another series' value: `slipway_llmdeployment_slo_share` has the label `le` of those buckets, and
as its value what each counts for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from slipway_api import latency
from slipway_api.conditions import Condition
from slipway_api.quantity import parse_quantity
from slipway_operator.kinds import Object

OBJECTIVE: Final = Decimal(99)
"""Percent, where `slo.objective` is absent."""
TOLD: Final = (Condition.READY, Condition.STALLED, Condition.UP_TO_DATE, Condition.AUTOSCALING_ACTIVE)
_PROMISES: Final = (
    ("ttft", "ttftMs", latency.FIRST_TOKEN),
    ("tpot", "tpotMs", latency.BETWEEN_TOKENS),
)
_VALUES: Final = {"True": 1.0, "False": 0.0}
_OF: Final = ("namespace", "deployment")
_PREFIX: Final = "slipway_llmdeployment_"


class Fleet(Collector):
    """The gauges of all LLMDeployments in the store."""

    def __init__(self, objects: Callable[[], Iterable[Object]]) -> None:
        self._objects = objects

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the names without a look at the objects."""
        return _families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges as of now."""
        found = _families()
        for obj in self._objects():
            _tell(found, obj)
        yield from found.values()


def _families() -> dict[str, GaugeMetricFamily]:
    def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(_PREFIX + name, text, labels=(*_OF, *labels))

    return {
        "info": gauge("info", "1; what runs, in the labels.", "model", "accelerator", "runtime", "class"),
        "condition": gauge(
            "condition", "1 where a condition is True, 0 where it is not.", "condition", "reason"
        ),
        "replicas": gauge("replicas", "Replicas wanted."),
        "ready_replicas": gauge("ready_replicas", "Replicas that serve."),
        "accelerators": gauge("accelerators", "Accelerators of the replicas wanted."),
        "slo_seconds": gauge("slo_seconds", "What spec.slo promises.", "slo"),
        "slo_objective_ratio": gauge("slo_objective_ratio", "Share of requests that have to meet it."),
        "slo_share": gauge(
            "slo_share", "What a latency bucket counts for among the requests in time.", "slo", "le"
        ),
    }


def _tell(found: Mapping[str, GaugeMetricFamily], obj: Object) -> None:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    key = (meta["namespace"], meta["name"])
    runtime = str((spec.get("engine") or {}).get("runtime") or "slipway")
    source = str((spec.get("model") or {}).get("source") or "")
    labels = (source, str(status.get("accelerator") or ""), runtime, str(status.get("className") or ""))
    found["info"].add_metric((*key, *labels), 1.0)
    for condition in status.get("conditions") or ():
        if condition.get("type") in TOLD:
            value = _VALUES.get(condition.get("status", ""), 0.0)
            found["condition"].add_metric((*key, condition["type"], condition.get("reason", "")), value)
    ready, _, wanted = str(status.get("ready") or "").partition("/")
    if wanted.isdecimal() and ready.isdecimal():
        found["replicas"].add_metric(key, int(wanted))
        found["ready_replicas"].add_metric(key, int(ready))
        each = (status.get("plan") or {}).get("acceleratorsPerReplica")
        if isinstance(each, int):
            found["accelerators"].add_metric(key, each * int(wanted))
    _promise(found, key, spec.get("slo") or {})


def _promise(found: Mapping[str, GaugeMetricFamily], key: tuple[str, str], slo: Mapping[str, Any]) -> None:
    given = [
        (name, slo[field] / 1000, bounds)
        for name, field, bounds in _PROMISES
        if isinstance(slo.get(field), int)
    ]
    for name, seconds, bounds in given:
        found["slo_seconds"].add_metric((*key, name), seconds)
        for bound, share in latency.shares(bounds, seconds).items():
            found["slo_share"].add_metric((*key, name, floatToGoString(bound)), share)  # type: ignore[no-untyped-call]
    if given:
        found["slo_objective_ratio"].add_metric(key, float(_objective(slo.get("objective")) / 100))


def _objective(value: object) -> Decimal:
    try:
        return OBJECTIVE if value is None else parse_quantity(str(value))
    except ValueError:  # stored under another version of the schema; its Accepted condition says so
        return OBJECTIVE
