"""The recording rules and alerts of the chart, as a Prometheus rules file.

Burn rates follow the multi-window alerts of the Google SRE Workbook, chapter 5: two windows each, so that
an alert starts soon and ends soon. The latency errors of a window are the requests beyond the promise,
counted from the buckets beside it (`slipway_llmdeployment_slo_share`).
"""

from __future__ import annotations

from typing import Any, Final

Rule = dict[str, Any]

DOCS: Final = "__DOCS__"
"""Stands for where the documentation is; the chart replaces it by its value `metrics.rules.docsUrl`."""
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_HISTOGRAMS: Final = {"ttft": "time_to_first_token_seconds", "tpot": "request_time_per_output_token_seconds"}
_KEY: Final = "namespace, deployment"
_OBJECTIVE: Final = f"(1 - max by ({_KEY}) (slipway_llmdeployment_slo_objective_ratio))"


def rules_file() -> dict[str, Any]:
    """Return the whole file."""
    return {
        "groups": [
            {"name": "slipway.engines", "rules": _engines()},
            {"name": "slipway.slo", "rules": [*_errors(), *_requests(), *_burn()]},
            {"name": "slipway.deployments", "rules": _deployments()},
            {"name": "slipway.gateway", "rules": _gateway()},
            {"name": "slipway.operator", "rules": _operator()},
        ]
    }


def _record(name: str, expr: str, **labels: str) -> Rule:
    return {"record": name, "expr": expr, **({"labels": labels} if labels else {})}


def _alert(name: str, expr: str, wait: str, severity: str, summary: str, description: str) -> Rule:
    return {
        "alert": name,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"{DOCS}/operations/alerts.md#{name.lower()}",
        },
    }


def _either(aggregation: str, name: str) -> str:
    """Return an aggregate over our engine's metric, or vLLM's where the deployment runs that."""
    ours, theirs = (f"{aggregation} by ({_KEY}) ({prefix}:{name})" for prefix in ("slipway", "vllm"))
    return f"{ours} or {theirs}"


def _engines() -> list[Rule]:
    record = "deployment:slipway_{}"
    return [
        _record(record.format("requests_running:sum"), _either("sum", "num_requests_running")),
        _record(record.format("requests_waiting:sum"), _either("sum", "num_requests_waiting")),
        _record(record.format("kv_cache_usage:avg"), _either("avg", "kv_cache_usage_perc")),
        _alert(
            "SlipwayKVCacheSaturated",
            "deployment:slipway_kv_cache_usage:avg > 0.95 and deployment:slipway_requests_waiting:sum > 0",
            "15m",
            "warning",
            "The KV cache of {{ $labels.namespace }}/{{ $labels.deployment }} is full.",
            "{{ $value | humanizePercentage }} of the KV blocks of its pods are in use and requests wait.",
        ),
        _alert(
            "SlipwayQueueGrowing",
            "deployment:slipway_requests_waiting:sum > deployment:slipway_requests_running:sum"
            " and deriv(deployment:slipway_requests_waiting:sum[10m]) > 0",
            "10m",
            "warning",
            "More requests wait at {{ $labels.namespace }}/{{ $labels.deployment }} than run.",
            "{{ $value | humanize }} requests wait in its pods, and their number grows.",
        ),
    ]


def _errors() -> list[Rule]:
    found = []
    for window in WINDOWS:
        for slo, histogram in _HISTOGRAMS.items():
            good, total = (
                " or ".join(
                    f"sum by ({labels}) (rate({prefix}:{histogram}_{part}[{window}]))"
                    for prefix in ("slipway", "vllm")
                )
                for part, labels in (("bucket", f"{_KEY}, le"), ("count", _KEY))
            )
            share = f'max by ({_KEY}, le) (slipway_llmdeployment_slo_share{{slo="{slo}"}})'
            expr = f"1 - sum by ({_KEY}) (({good}) * {share}) / (({total}) > 0)"
            found.append(_record(f"deployment:slipway_slo_errors:ratio_rate{window}", expr, slo=slo))
    return found


def _requests() -> list[Rule]:
    found = []
    for window in ("1h", "6h"):
        counts = " or ".join(
            f"sum by ({_KEY}) (increase({prefix}:time_to_first_token_seconds_count[{window}]))"
            for prefix in ("slipway", "vllm")
        )
        found.append(_record(f"deployment:slipway_answers:increase{window}", counts))
    return found


def _burning(long: str, short: str, factor: float) -> str:
    error = "deployment:slipway_slo_errors:ratio_rate"
    return " and ".join(
        f"({error}{window} > on ({_KEY}) group_left () ({factor:g} * {_OBJECTIVE}))"
        for window in (long, short)
    )


def _burn() -> list[Rule]:
    words = "{{ $value | humanizePercentage }} of its answers missed the {{ $labels.slo }} of spec.slo; "
    enough = f"and on ({_KEY}) deployment:slipway_answers:increase{{}} >= 20"
    fast = f"({_burning('1h', '5m', 14.4)} or {_burning('6h', '30m', 6)}) {enough.format('1h')}"
    slow = f"({_burning('1d', '2h', 3)} or {_burning('3d', '6h', 1)}) {enough.format('6h')}"
    name = "{{ $labels.namespace }}/{{ $labels.deployment }}"
    return [
        _alert(
            "SlipwaySLOBurnFast",
            fast,
            "2m",
            "critical",
            f"{name} burns its error budget within days.",
            words + "at this rate the budget of 30 days is gone in less than five.",
        ),
        _alert(
            "SlipwaySLOBurnSlow",
            slow,
            "15m",
            "warning",
            f"{name} does not keep its promise.",
            words + "at this rate the budget of 30 days does not last.",
        ),
    ]


def _deployments() -> list[Rule]:
    condition = 'slipway_llmdeployment_condition{{condition="{}"{}}}'
    name = "{{ $labels.namespace }}/{{ $labels.deployment }}"
    why = (
        "`kubectl describe llmdep -n {{ $labels.namespace }} {{ $labels.deployment }}` says what blocks, "
        "and what to do next."
    )
    blind = condition.format("AutoscalingActive", ', reason=~"FailedGet.*"')
    full = condition.format("AutoscalingActive", ', reason="TooManyReplicas"')
    stalled = condition.format("Stalled", "")
    return [
        _alert(
            "SlipwayDeploymentDown",
            f"max by ({_KEY}) (slipway_llmdeployment_ready_replicas) == 0"
            f" and max by ({_KEY}) (slipway_llmdeployment_replicas) > 0",
            "15m",
            "critical",
            f"{name} has no replica that serves.",
            why,
        ),
        _alert(
            "SlipwayDeploymentNotReady",
            f"max by ({_KEY}) ({condition.format('Ready', '')}) == 0",
            "30m",
            "warning",
            f"{name} is not Ready.",
            why,
        ),
        _alert(
            "SlipwayDeploymentStalled",
            f"max by ({_KEY}, reason) ({stalled}) == 1",
            "5m",
            "warning",
            f"{name} is stalled: {{{{ $labels.reason }}}}.",
            "It will not end by itself. " + why,
        ),
        _alert(
            "SlipwayAutoscalerBlind",
            f"count by ({_KEY}, reason) ({blind})",
            "10m",
            "warning",
            f"The replicas of {name} are frozen: {{{{ $labels.reason }}}}.",
            "The autoscaler has no usable metric and leaves the number of replicas as it is. " + why,
        ),
        _alert(
            "SlipwayAutoscalerAtMaximum",
            f"count by ({_KEY}) ({full})",
            "30m",
            "info",
            f"{name} would need more replicas than autoscaling.maxReplicas.",
            "Answers get slower while it stays so. " + why,
        ),
    ]


def _gateway() -> list[Rule]:
    rate = f"sum by ({_KEY}) (rate(slipway_gateway_requests_total{{}}[5m]))"
    every, errors, limited = (
        rate.replace("{}", matcher) for matcher in ("", '{code=~"5.."}', '{code="429"}')
    )
    name = "{{ $labels.namespace }}/{{ $labels.deployment }}"
    return [
        _record(
            "deployment:slipway_gateway_errors:ratio_rate5m", f"({errors} or 0 * {every}) / ({every} > 0)"
        ),
        _record(
            "deployment:slipway_gateway_throttled:ratio_rate5m", f"({limited} or 0 * {every}) / ({every} > 0)"
        ),
        _alert(
            "SlipwayGatewayErrors",
            "deployment:slipway_gateway_errors:ratio_rate5m > 0.05",
            "10m",
            "critical",
            f"The gateway answers requests for {name} with errors.",
            "{{ $value | humanizePercentage }} of the requests of the last five minutes ended with 5xx.",
        ),
        _alert(
            "SlipwayGatewayThrottling",
            "deployment:slipway_gateway_throttled:ratio_rate5m > 0.1",
            "15m",
            "warning",
            f"Tenants are refused requests for {name}.",
            "{{ $value | humanizePercentage }} of the requests of five minutes were answered with 429.",
        ),
        _alert(
            "SlipwayGatewayEndpointsEjected",
            f"max by ({_KEY}) (slipway_gateway_ejected_endpoints) > 0",
            "10m",
            "warning",
            f"Pods of {name} sit out after failures.",
            "A gateway sends no requests to {{ $value }} of its pods, since they failed several in a row.",
        ),
        _alert(
            "SlipwayGatewayBlind",
            "max by (namespace, pod, resource) (slipway_gateway_watch_silence_seconds) > 600",
            "5m",
            "warning",
            "A gateway hears nothing from the API server.",
            "{{ $labels.pod }} has heard nothing about {{ $labels.resource }} for"
            " {{ $value | humanizeDuration }}; it routes by what it knew.",
        ),
    ]


def _operator() -> list[Rule]:
    reconciles = "sum(rate(slipway_operator_reconcile_seconds_count[5m]))"
    return [
        _alert(
            "SlipwayOperatorNoLeader",
            "(sum(slipway_operator_leader) or vector(0)) == 0",
            "5m",
            "critical",
            "No operator leads.",
            "No replica holds the Lease, or none is scraped: nothing is rolled out or scaled.",
        ),
        _alert(
            "SlipwayOperatorQueueStuck",
            f"sum(slipway_operator_queue_depth) > 0 and on () {reconciles} == 0",
            "5m",
            "critical",
            "The operator's work queue is stuck.",
            "{{ $value }} objects wait for a worker, and no reconcile ends.",
        ),
        _alert(
            "SlipwayOperatorQueueBehind",
            "sum(min_over_time(slipway_operator_queue_depth[10m])) > 10",
            "10m",
            "warning",
            "The operator does not keep up.",
            "At least {{ $value }} objects have waited for a worker for twenty minutes.",
        ),
        _alert(
            "SlipwayOperatorErrors",
            "sum by (reason) (rate(slipway_operator_errors_total[15m])) > 0.1",
            "15m",
            "warning",
            "Reconciles fail: {{ $labels.reason }}.",
            "{{ $value | humanize }} reconciles a second are tried again for this reason.",
        ),
    ]
