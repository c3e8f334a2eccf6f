"""What Prometheus sees: vLLM's names under the prefix `slipway:`; every label has a fixed set of values.

With the alias `vllm` each of them is shown under the prefix `vllm:` too, for dashboards, autoscalers and
endpoint pickers that look for those names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from slipway_api import latency
from slipway_engine.core.messages import CoreStats, Ready
from slipway_engine.parallel.counts import METRICS, Counts

disable_created_metrics()  # type: ignore[no-untyped-call]

PREFIX = "slipway:"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FINISHES = ("stop", "length", "abort", "error")

_REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
_OF_A_METRIC = re.compile(rb"^(# (?:HELP|TYPE) )?slipway:(.*\n)", re.MULTILINE)


class Metrics:
    """The engine's metrics for one model name, in a registry of their own."""

    def __init__(self, model_name: str, stats: Callable[[], CoreStats], aliases: str = "none") -> None:
        self._registry = CollectorRegistry()
        self._model = model_name
        self._aliases = aliases
        self._registry.register(_CoreCollector(model_name, stats))
        ProcessCollector(registry=self._registry)
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "Request received to first token.", latency.FIRST_TOKEN
        )
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds", "One token to the next of a sequence.", latency.BETWEEN_TOKENS
        )
        self.e2e_latency = self._histogram(
            "e2e_request_latency_seconds", "Request received to last token.", _REQUEST
        )
        self.queue_time = self._histogram(
            "request_queue_time_seconds", "Time in the waiting queue.", _REQUEST
        )
        self.prefill_time = self._histogram("request_prefill_time_seconds", "Time in prefill.", _REQUEST)
        self.decode_time = self._histogram(
            "request_decode_time_seconds", "First token to last token.", _REQUEST
        )
        self.inference_time = self._histogram(
            "request_inference_time_seconds", "Leaving the queue to last token.", _REQUEST
        )
        self.time_per_output_token = self._histogram(
            "request_time_per_output_token_seconds",
            "Mean time from one token to the next, a sequence.",
            latency.BETWEEN_TOKENS,
        )
        self.params_n = self._histogram("request_params_n", "The parameter n of a request.", _COUNTS)
        self.params_max_tokens = self._histogram(
            "request_params_max_tokens", "The parameter max_tokens of a request.", _TOKENS
        )
        self.prompt_length = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self.generation_length = self._histogram(
            "request_generation_tokens", "Tokens generated for a sequence.", _TOKENS
        )
        self._success = Counter(
            f"{PREFIX}request_success",
            "Sequences that ended, by how.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._refused = Counter(
            f"{PREFIX}request_refused",
            "Requests that were refused, by HTTP status.",
            ["model_name", "status"],
            registry=self._registry,
        )
        for reason in FINISHES:
            self._success.labels(model_name, reason)

    def finished(self, reason: str) -> None:
        """Count a sequence that ended."""
        self._success.labels(self._model, reason if reason in FINISHES else "error").inc()

    def refused(self, status: int) -> None:
        """Count a request that was answered with an error status."""
        self._refused.labels(self._model, str(status)).inc()

    def loaded(self, ready: Ready) -> None:
        """Show how memory was divided and the cache laid out."""
        labels = {
            "model_name": self._model,
            "block_size": str(ready.block_size),
            "num_gpu_blocks": str(ready.num_kv_blocks),  # vLLM's name; on a CPU these are its blocks
            "cache_dtype": ready.dtype,
        }
        info = Gauge(
            f"{PREFIX}cache_config_info",
            "The KV cache, in its labels.",
            list(labels),
            registry=self._registry,
        )
        info.labels(**labels).set(1)
        longest = self._fixed("max_model_len", "Longest prompt and answer of a request, in tokens.", ())
        longest.labels(self._model).set(ready.max_model_len)
        memory = self._fixed("memory_bytes", "The memory ledger made when the model was loaded.", ("part",))
        for part, size in ready.memory.items():
            memory.labels(self._model, part).set(size)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        text = generate_latest(self._registry)
        if self._aliases == "none":
            return text
        named = b"\\1" + self._aliases.encode() + b":\\2"
        return text + b"".join(match.expand(named) for match in _OF_A_METRIC.finditer(text))

    def _fixed(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"{PREFIX}{name}", text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"{PREFIX}{name}", text, ["model_name"], buckets=buckets, registry=self._registry)
        labelled: Histogram = family.labels(self._model)
        return labelled


class _CoreCollector(Collector):
    """Reads the core's own figures at the moment they are asked for."""

    def __init__(self, model_name: str, stats: Callable[[], CoreStats]) -> None:
        self._model = model_name
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        now = self._stats()
        used = now.kv_blocks_used / now.kv_blocks_total if now.kv_blocks_total else 0.0
        yield self._gauge("num_requests_running", "Sequences in the running batch.", now.num_requests_running)
        yield self._gauge("num_requests_waiting", "Sequences waiting to run.", now.num_requests_waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", used)
        yield self._counter("num_preemptions", "Sequences preempted to free blocks.", now.num_preemptions)
        yield self._counter(
            "prefix_cache_queries", "Tokens looked up in the prefix cache.", now.prefix_cache_queries
        )
        yield self._counter("prefix_cache_hits", "Tokens found in the prefix cache.", now.prefix_cache_hits)
        yield self._counter("prompt_tokens", "Prompt tokens processed.", now.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated.", now.generation_tokens)
        yield self._counter("engine_steps", "Steps of the engine core.", now.steps)
        yield self._gauge("engine_step_seconds", "Duration of the last step.", now.step_seconds)
        yield from self._ranks(now.ranks)

    def _ranks(self, rows: Iterable[Iterable[int]]) -> Iterable[Metric]:
        """Yield what each rank of a group has done."""
        families: dict[str, CounterMetricFamily] = {}
        for row in rows:
            for name, labels, value in Counts.of(row).samples():
                if name not in families:
                    names = ["model_name", *labels]
                    families[name] = CounterMetricFamily(f"{PREFIX}{name}", METRICS[name], labels=names)
                families[name].add_metric([self._model, *labels.values()], value)
        yield from families.values()

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family
