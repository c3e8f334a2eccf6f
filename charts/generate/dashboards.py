"""The chart's Grafana dashboards: fleet, one deployment, engine internals, autoscaling.

Each is made of rows of panels, a panel of PromQL and what its lines are called. Where it is about engines,
`$engine` is the prefix of the metrics: slipway, or vllm for deployments that run it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

Json = dict[str, Any]
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_ONE: Final = 'namespace="$namespace", deployment="$deployment"'
_AUTO: Final = 'namespace="$namespace", name="$deployment"'
_MANY: Final = 'namespace=~"$namespace"'
_RATE: Final = "[$__rate_interval]"


class Panel(NamedTuple):
    """One panel: queries with the names of their lines, in a unit of Grafana's."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"


def dashboards() -> dict[str, Json]:
    """Return the dashboards by their file's name."""
    return {
        "fleet": _dashboard("fleet", "Slipway / Fleet", _fleet(), many=True),
        "deployment": _dashboard("deployment", "Slipway / Deployment", _deployment(), engine=True),
        "engine": _dashboard("engine", "Slipway / Engine", _engine(), engine=True),
        "autoscaling": _dashboard("autoscaling", "Slipway / Autoscaling", _autoscaling()),
    }


def _fleet() -> list[Panel]:
    condition = 'slipway_llmdeployment_condition{{condition="{}", {}}}'
    ready, stalled = (condition.format(each, _MANY) for each in ("Ready", "Stalled"))
    return [
        Panel("LLMDeployments", ((f"count(slipway_llmdeployment_info{{{_MANY}}})", "all"),), kind="stat"),
        Panel("Ready", ((f"sum({ready})", "ready"),), kind="stat"),
        Panel("Stalled", ((f"sum({stalled})", "stalled"),), kind="stat"),
        Panel(
            "Accelerators asked for",
            ((f"sum(slipway_llmdeployment_accelerators{{{_MANY}}}) or vector(0)", "accelerators"),),
            kind="stat",
        ),
        Panel("Reasons of Ready", ((f"count by (reason) ({ready})", "{{reason}}"),)),
        Panel(
            "Replicas",
            (
                (f"sum(slipway_llmdeployment_replicas{{{_MANY}}})", "wanted"),
                (f"sum(slipway_llmdeployment_ready_replicas{{{_MANY}}})", "serving"),
            ),
        ),
        Panel(
            "Requests at the gateway, by code",
            ((f"sum by (code) (rate(slipway_gateway_requests_total{{{_MANY}}}{_RATE}))", "{{code}}"),),
            "reqps",
        ),
        Panel(
            "Tokens generated",
            (
                (
                    f"sum by (namespace) (rate(slipway:generation_tokens_total{{{_MANY}}}{_RATE}))",
                    "{{namespace}}",
                ),
            ),
        ),
        Panel(
            "Reconciles",
            ((f"sum by (outcome) (rate(slipway_operator_reconcile_seconds_count{_RATE}))", "{{outcome}}"),),
            "ops",
        ),
        Panel(
            "Reconcile, 99th percentile",
            (
                (
                    "histogram_quantile(0.99, sum by (le) "
                    f"(rate(slipway_operator_reconcile_seconds_bucket{_RATE})))",
                    "p99",
                ),
            ),
            "s",
        ),
        Panel(
            "Objects that wait for the operator",
            (
                ("sum(slipway_operator_queue_depth)", "for a worker"),
                ("sum(slipway_operator_queue_delayed)", "for their time"),
            ),
        ),
        Panel(
            "Requests to the API server",
            ((f"sum by (verb) (rate(slipway_operator_api_requests_total{_RATE}))", "{{verb}}"),),
            "reqps",
        ),
    ]


def _quantiles(metric: str, *, of: str = _ONE) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{{of}}}{_RATE})))", f"p{round(q * 100)}")
        for q in (0.5, 0.9, 0.99)
    )


def _sum(metric: str, of: str = _ONE) -> str:
    return f"sum({metric}{{{of}}})"


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{_ONE}}}{_RATE}))"


def _deployment() -> list[Panel]:
    return [
        Panel(
            "Replicas",
            (
                (_sum("slipway_llmdeployment_replicas"), "wanted"),
                (_sum("slipway_llmdeployment_ready_replicas"), "serving"),
            ),
        ),
        Panel(
            "Conditions",
            ((f"slipway_llmdeployment_condition{{{_ONE}}}", "{{condition}}: {{reason}}"),),
        ),
        Panel("Time to the first token", _quantiles("${engine}:time_to_first_token_seconds"), "s"),
        Panel("Time per output token", _quantiles("${engine}:request_time_per_output_token_seconds"), "s"),
        Panel("Requests, by code", ((_rate("slipway_gateway_requests_total", "code"), "{{code}}"),), "reqps"),
        Panel("Duration at the gateway", _quantiles("slipway_gateway_request_duration_seconds"), "s"),
        Panel(
            "Tokens a second",
            (
                (_rate("${engine}:prompt_tokens_total"), "prompt"),
                (_rate("${engine}:generation_tokens_total"), "generated"),
            ),
        ),
        Panel(
            "Requests",
            (
                (_sum("${engine}:num_requests_running"), "running"),
                (_sum("${engine}:num_requests_waiting"), "waiting"),
                (_sum("slipway_gateway_outstanding_requests"), "at the gateway"),
            ),
        ),
        Panel("Promise", ((f"max by (slo) (slipway_llmdeployment_slo_seconds{{{_ONE}}})", "{{slo}}"),), "s"),
        Panel(
            "Endpoints",
            (
                (f"min(slipway_gateway_ready_endpoints{{{_ONE}}})", "ready"),
                (f"max(slipway_gateway_ejected_endpoints{{{_ONE}}})", "sit out"),
            ),
        ),
    ]


def _engine() -> list[Panel]:
    hits, queries = (_rate(f"${{engine}}:prefix_cache_{part}_total") for part in ("hits", "queries"))
    return [
        Panel("Running", ((f"${{engine}}:num_requests_running{{{_ONE}}}", "{{pod}}"),)),
        Panel("Waiting", ((f"${{engine}}:num_requests_waiting{{{_ONE}}}", "{{pod}}"),)),
        Panel("KV cache", ((f"${{engine}}:kv_cache_usage_perc{{{_ONE}}}", "{{pod}}"),), "percentunit"),
        Panel("Preemptions", ((_rate("${engine}:num_preemptions_total", "pod"), "{{pod}}"),), "ops"),
        Panel("Prefix cache hits", ((f"{hits} / {queries}", "of tokens looked up"),), "percentunit"),
        Panel(
            "Ends",
            ((_rate("${engine}:request_success_total", "finished_reason"), "{{finished_reason}}"),),
            "ops",
        ),
        Panel("Time in the queue", _quantiles("${engine}:request_queue_time_seconds"), "s"),
        Panel("Prefill", _quantiles("${engine}:request_prefill_time_seconds"), "s"),
        Panel("Decode", _quantiles("${engine}:request_decode_time_seconds"), "s"),
        Panel("Between tokens", _quantiles("${engine}:inter_token_latency_seconds"), "s"),
        Panel(
            "Steps a second (Slipway's engine)",
            ((_rate("slipway:engine_steps_total", "pod"), "{{pod}}"),),
            "ops",
        ),
        Panel("Last step (Slipway's engine)", ((f"slipway:engine_step_seconds{{{_ONE}}}", "{{pod}}"),), "s"),
        Panel(
            "Memory as divided (Slipway's engine)",
            ((f"max by (part) (slipway:memory_bytes{{{_ONE}}})", "{{part}}"),),
            "bytes",
        ),
        Panel("Process", ((f"process_resident_memory_bytes{{{_ONE}}}", "{{pod}}"),), "bytes"),
    ]


def _autoscaling() -> list[Panel]:
    return [
        Panel(
            "Replicas",
            (
                (_sum("slipway_autoscaler_desired_replicas", _AUTO), "wanted"),
                (_sum("slipway_autoscaler_ready_replicas", _AUTO), "serving"),
            ),
        ),
        Panel(
            "Requests, and what the replicas bear",
            (
                (_sum("slipway_autoscaler_requests", _AUTO), "requests"),
                (
                    f"{_sum('slipway_autoscaler_replica_capacity', _AUTO)}"
                    f" * {_sum('slipway_autoscaler_ready_replicas', _AUTO)}",
                    "bear",
                ),
            ),
        ),
        Panel("What one replica bears", ((_sum("slipway_autoscaler_replica_capacity", _AUTO), "requests"),)),
        Panel("Pods without a fresh sample", ((_sum("slipway_autoscaler_silent_pods", _AUTO), "pods"),)),
        Panel(
            "Held at the gateways", ((f"{_sum('slipway_gateway_held_requests')} or vector(0)", "requests"),)
        ),
        Panel(
            "Condition AutoscalingActive",
            (
                (
                    f'slipway_llmdeployment_condition{{condition="AutoscalingActive", {_ONE}}}',
                    "{{reason}}",
                ),
            ),
        ),
        Panel(
            "Decisions of all deployments",
            ((f"sum by (reason) (rate(slipway_autoscaler_decisions_total{_RATE}))", "{{reason}}"),),
            "ops",
        ),
        Panel(
            "A round over all deployments, 99th percentile",
            (
                (
                    "histogram_quantile(0.99, sum by (le) "
                    f"(rate(slipway_autoscaler_round_seconds_bucket{_RATE})))",
                    "p99",
                ),
            ),
            "s",
        ),
    ]


def _dashboard(
    name: str, title: str, panels: list[Panel], *, many: bool = False, engine: bool = False
) -> Json:
    return {
        "uid": f"slipway-{name}",
        "title": title,
        "tags": ["slipway"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables(many=many, engine=engine)},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _variables(*, many: bool, engine: bool) -> list[Json]:
    def asked(name: str, query: str, **more: Any) -> Json:
        query_of = {"query": query, "refId": name}
        return {
            "name": name, "type": "query", "datasource": _SOURCE, "query": query_of,
            "refresh": 2, "sort": 1, **more,
        }  # fmt: skip

    info = "slipway_llmdeployment_info"
    found: list[Json] = [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
    if many:
        return [
            *found,
            asked(
                "namespace", f"label_values({info}, namespace)", includeAll=True, multi=True, allValue=".*"
            ),
        ]
    found.append(asked("namespace", f"label_values({info}, namespace)"))
    found.append(asked("deployment", f'label_values({info}{{namespace="$namespace"}}, deployment)'))
    if engine:
        found.append(
            {"name": "engine", "type": "custom", "query": "slipway,vllm", "current": {"value": "slipway"}}
        )
    return found


def _panel(number: int, panel: Panel) -> Json:
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend, "datasource": _SOURCE}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }
