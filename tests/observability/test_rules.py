"""The alerts fire when they should and not otherwise, in promtool; and each has its page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.generate.__main__ import wanted
from e2e.cluster.errors import ClusterError
from e2e.prometheus import program

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "charts" / "slipway" / "files" / "rules.yaml"
RULES = [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
PAGE = ROOT / "docs" / "operations" / "alerts.md"
OF = 'namespace="team", deployment="chat"'


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        tool = program("promtool")
    except ClusterError as error:
        pytest.skip(str(error))
    return subprocess.run([tool, *words], text=True, capture_output=True, check=False)


def one(name: str, values: str, labels: str = OF) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": values}


def condition(kind: str, value: int, reason: str) -> dict[str, str]:
    return one(
        "slipway_llmdeployment_condition", f"{value}x400", f'{OF}, condition="{kind}", reason="{reason}"'
    )


def latency(late: int, *, prefix: str = "slipway", slo: str = "ttft") -> list[dict[str, str]]:
    """100 answers a minute, `late` of them beyond the promise of 1 s, one in ten allowed."""
    name = "time_to_first_token_seconds" if slo == "ttft" else "request_time_per_output_token_seconds"
    found = [
        one(f"{prefix}:{name}_bucket", f"0+{100 - late}x500", f'{OF}, pod="a", le="1.0"'),
        one(f"{prefix}:{name}_bucket", "0+100x500", f'{OF}, pod="a", le="+Inf"'),
        one(f"{prefix}:{name}_count", "0+100x500", f'{OF}, pod="a"'),
        one("slipway_llmdeployment_slo_share", "1x500", f'{OF}, slo="{slo}", le="1.0", pod="operator"'),
        one("slipway_llmdeployment_slo_objective_ratio", "0.9x500", f'{OF}, pod="operator"'),
    ]
    if slo == "tpot":
        found.append(one(f"{prefix}:time_to_first_token_seconds_count", "0+100x500", f'{OF}, pod="a"'))
    return found


def requests(code: str, each_minute: int) -> dict[str, str]:
    return one("slipway_gateway_requests_total", f"0+{each_minute}x400", f'{OF}, pod="g", code="{code}"')


def pods(**values: str) -> list[dict[str, str]]:
    return [one(f"slipway:{name}", text, f'{OF}, pod="a"') for name, text in values.items()]


REPLICAS = "slipway_llmdeployment_replicas"
SERVING = "slipway_llmdeployment_ready_replicas"
DEPTH = "slipway_operator_queue_depth"
LEADER = "slipway_operator_leader"
DONE = "slipway_operator_reconcile_seconds_count"
# By alert: the series that make it fire, like series that do not, and the minute at which both are looked at.
CASES: dict[str, tuple[list[dict[str, str]], list[dict[str, str]], int]] = {
    "SlipwayDeploymentDown": (
        [one(REPLICAS, "2x60"), one(SERVING, "0x60")],
        [one(REPLICAS, "0x60"), one(SERVING, "0x60")],
        20,
    ),
    "SlipwayDeploymentNotReady": (
        [condition("Ready", 0, "Unschedulable")],
        [condition("Ready", 1, "ScaledToZero")],
        40,
    ),
    "SlipwayDeploymentStalled": (
        [condition("Stalled", 1, "DoesNotFit")],
        [condition("Stalled", 0, "Ready")],
        10,
    ),
    "SlipwayAutoscalerBlind": (
        [condition("AutoscalingActive", 0, "FailedGetPodsMetric")],
        [condition("AutoscalingActive", 0, "ScalingDisabled")],
        15,
    ),
    "SlipwayAutoscalerAtMaximum": (
        [condition("AutoscalingActive", 1, "TooManyReplicas")],
        [condition("AutoscalingActive", 1, "ValidMetricFound")],
        40,
    ),
    "SlipwayGatewayErrors": (
        [requests("200", 90), requests("503", 10)],
        [requests("200", 96), requests("503", 4)],
        20,
    ),
    "SlipwayGatewayThrottling": (
        [requests("200", 80), requests("429", 20)],
        [requests("200", 95), requests("429", 5)],
        25,
    ),
    "SlipwayGatewayEndpointsEjected": (
        [one("slipway_gateway_ejected_endpoints", "1x60")],
        [one("slipway_gateway_ejected_endpoints", "0x60")],
        15,
    ),
    "SlipwayGatewayBlind": (
        [one("slipway_gateway_watch_silence_seconds", "0+60x60", 'pod="g", resource="endpointslices"')],
        [one("slipway_gateway_watch_silence_seconds", "30x60", 'pod="g", resource="endpointslices"')],
        20,
    ),
    "SlipwayKVCacheSaturated": (
        pods(kv_cache_usage_perc="0.99x60", num_requests_waiting="3x60"),
        pods(kv_cache_usage_perc="0.99x60", num_requests_waiting="0x60"),
        20,
    ),
    "SlipwayQueueGrowing": (
        pods(num_requests_running="4x60", num_requests_waiting="5+1x60"),
        pods(num_requests_running="40x60", num_requests_waiting="5+0x60"),
        25,
    ),
    "SlipwaySLOBurnFast": (latency(late=100), latency(late=9), 70),
    "SlipwaySLOBurnSlow": (latency(late=35), latency(late=9), 60 * 8),
    "SlipwayOperatorNoLeader": (
        [one(LEADER, "0x60", 'pod="o"')],
        [one(LEADER, "1x60", 'pod="o"'), one(LEADER, "0x60", 'pod="p"')],
        10,
    ),
    "SlipwayOperatorQueueStuck": (
        [one(DEPTH, "3x60", 'pod="o"'), one(DONE, "7x60", 'pod="o", outcome="done"')],
        [one(DEPTH, "3x60", 'pod="o"'), one(DONE, "0+9x60", 'pod="o", outcome="done"')],
        15,
    ),
    "SlipwayOperatorQueueBehind": (
        [one(DEPTH, "20x60", 'pod="o"')],
        [one(DEPTH, "20 0 20 0 20 0 20 0 20 0 20 0 20 0 20 0 20 0 20 0 20 0 20 0", 'pod="o"')],
        21,
    ),
    "SlipwayOperatorErrors": (
        [one("slipway_operator_errors_total", "0+12x60", 'pod="o", reason="Conflict"')],
        [one("slipway_operator_errors_total", "0+2x60", 'pod="o", reason="Conflict"')],
        40,
    ),
}  # fmt: skip


# Further ones: the alert, its series, the minute, and how many fire then.
EDGES: dict[str, tuple[str, list[dict[str, str]], int, int]] = {
    "vllm-ttft": ("SlipwaySLOBurnFast", latency(late=100, prefix="vllm"), 70, 1),
    "vllm-tpot": ("SlipwaySLOBurnFast", latency(late=100, prefix="vllm", slo="tpot"), 70, 1),
    "no-leader-where-nothing-is-scraped": ("SlipwayOperatorNoLeader", [one("up", "1x60", "")], 10, 1),
    "a-single-late-answer-at-night": (
        "SlipwaySLOBurnFast",
        [{**each, "values": each["values"].replace("+100x", "+0.1x")} for each in latency(late=100)],
        70,
        0,
    ),
}


def test_of(name: str, alert: str, series: list[dict[str, str]], minute: int, count: int) -> dict[str, Any]:
    """Return promtool's test that exactly `count` alerts fire at that minute."""
    # The case is in the answer's labels, since older promtools do not print a test's name.
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    samples = [{"labels": f'{{case="{name}"}}', "value": count}]
    expected = {
        "expr": f'label_replace({firing}, "case", "{name}", "", "")',
        "eval_time": f"{minute}m",
        "exp_samples": samples,
    }
    return {"interval": "1m", "input_series": series, "promql_expr_test": [expected]}


test_of.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run all cases in one promtool; return what it wrote of those that failed."""
    tests = [test_of(f"{name}/on", name, bad, minute, 1) for name, (bad, _, minute) in CASES.items()]
    tests += [test_of(f"{name}/off", name, good, minute, 0) for name, (_, good, minute) in CASES.items()]
    tests += [test_of(f"{name}/edge", *edge) for name, edge in EDGES.items()]
    file = tmp_path_factory.mktemp("rules") / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FILE)], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", str(file))
    said = done.stdout + done.stderr
    assert done.returncode == 0 or re.search(r"/(on|off|edge)", said), said
    return said


def test_promtool_takes_the_file() -> None:
    done = promtool("check", "rules", "--lint-fatal", str(FILE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_alert_fires_when_it_should_and_not_otherwise(name: str, failures: str) -> None:
    assert f"{name}/on" not in failures, failures
    assert f"{name}/off" not in failures, failures


@pytest.mark.parametrize("name", sorted(EDGES))
def test_at_the_edges(name: str, failures: str) -> None:
    assert f"{name}/edge" not in failures, failures


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_what_it_is_about_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"__DOCS__/operations/alerts.md#{name.lower()}"


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    headings = re.findall(r"^### (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)


def test_the_generated_files_are_current() -> None:
    for path, text in wanted().items():
        assert path.read_text() == text, "run `make generate`"
