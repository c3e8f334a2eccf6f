"""Show what the pods of deployments do now: requests, KV cache, tokens a second, time to first token.

Reads each pod's metrics twice through the API server's proxy, so it needs `get` on `pods/proxy` and no
Prometheus. Rates and times are those between the two reads.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from slipway_api import names
from slipway_operator.explain.pods import is_ready
from slipway_operator.kinds import POD, Object, key_of
from slipway_operator.plugin import screen
from slipway_operator.plugin.errors import PluginError
from slipway_operator.plugin.kubectl import Kubectl

NAME = "top"
SUMMARY = "show what the pods do now"
PREFIXES: Final = ("slipway:", "vllm:")
READERS: Final = 8

Sample: TypeAlias = Mapping[str, float]
"""A metric's sum over its label sets; a histogram's buckets by `NAME_bucket{le}`."""


@dataclass(frozen=True)
class Row:
    """One pod: gauges as of now, rates over the interval; None where the pod did not say."""

    deployment: str
    pod: str
    running: float | None
    waiting: float | None
    kv_cache_percent: float | None
    output_tokens_per_second: float | None
    prompt_tokens_per_second: float | None
    ttft_p50_ms: float | None


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("name", nargs="?", help="the LLMDeployment; all of the namespace where absent")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    parser.add_argument(
        "--interval", type=float, default=2.0, help="seconds between the two reads (default 2)"
    )


def run(options: Namespace, cluster: Kubectl) -> int:
    """Print one row a pod."""
    selector = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},{names.LABEL_DEPLOYMENT}"
    selector += f"={options.name}" if options.name else ""
    pods = [
        pod
        for pod in cluster.find(POD, selector=selector, everywhere=options.all_namespaces)
        if is_ready(pod)
    ]
    if not pods:
        raise PluginError(
            "No ready pod of an LLMDeployment is here; `kubectl get llmdep` shows what there is."
        )
    rows = measure(cluster, pods, options.interval)
    if options.output == "text":
        screen.console().print(_table(rows))
    else:
        screen.machine([asdict(row) for row in rows], options.output)
    return 0


def measure(cluster: Kubectl, pods: list[Object], interval: float) -> list[Row]:
    """Read all pods twice and return their rows."""
    with ThreadPoolExecutor(READERS) as pool:
        before = list(pool.map(lambda pod: _read(cluster, pod), pods))
        began = time.monotonic()
        time.sleep(max(0.1, interval))
        after = list(pool.map(lambda pod: _read(cluster, pod), pods))
    seconds = time.monotonic() - began
    return [row_of(pod, old, new, seconds) for pod, old, new in zip(pods, before, after, strict=True)]


def row_of(pod: Object, before: Sample, after: Sample, seconds: float) -> Row:
    """Return a pod's row from two samples."""

    def rate(name: str) -> float | None:
        if name not in before or name not in after:
            return None
        return max(0.0, after[name] - before[name]) / seconds  # a restart sets counters back

    usage = after.get("kv_cache_usage_perc")
    return Row(
        deployment=str((pod["metadata"].get("labels") or {}).get(names.LABEL_DEPLOYMENT, "?")),
        pod=key_of(pod).name,
        running=after.get("num_requests_running"),
        waiting=after.get("num_requests_waiting"),
        kv_cache_percent=None if usage is None else 100 * usage,
        output_tokens_per_second=rate("generation_tokens_total"),
        prompt_tokens_per_second=rate("prompt_tokens_total"),
        ttft_p50_ms=_scaled(quantile(before, after, "time_to_first_token_seconds", 0.5), 1000),
    )


def samples(text: str) -> dict[str, float]:
    """Return an engine's metrics by their name without the engine's prefix, summed over labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            prefix = next((p for p in PREFIXES if sample.name.startswith(p)), None)
            if prefix is None or math.isnan(sample.value):
                continue
            name = sample.name.removeprefix(prefix)
            if "le" in sample.labels:
                name = f"{name}{{{sample.labels['le']}}}"
            found[name] = found.get(name, 0.0) + sample.value
    return found


def quantile(before: Sample, after: Sample, name: str, share: float) -> float | None:
    """Return a quantile of what a histogram took in between, interpolated as Prometheus does it."""
    start, end = f"{name}_bucket{{", "}"
    edges = sorted(
        (float(key[len(start) : -len(end)]), value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(start)
    )
    if not edges or edges[-1][1] <= 0:
        return None
    wanted, low, below = share * edges[-1][1], 0.0, 0.0
    for edge, count in edges:
        if count >= wanted:
            if math.isinf(edge):
                return low
            return low + (edge - low) * (wanted - below) / max(count - below, 1e-9)
        low, below = edge, count
    return low


def _read(cluster: Kubectl, pod: Object) -> Sample:
    """Return a pod's samples; none where it does not answer, so that one silent pod hides no other."""
    key = key_of(pod)
    path = f"/api/v1/namespaces/{key.namespace}/pods/{key.name}:{names.ENGINE_PORT}/proxy/metrics"
    try:
        return samples(cluster.raw(path, timeout=10))
    except (PluginError, ValueError):
        return {}


def _table(rows: Iterable[Row]) -> object:
    columns = ("DEPLOYMENT", "POD", "RUNNING", "WAITING", "KV %", "OUT TOK/S", "IN TOK/S", "TTFT P50 MS")
    return screen.table("", columns, [[_cell(value) for value in asdict(row).values()] for row in rows])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
