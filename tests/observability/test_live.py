"""Every name in rules, dashboards and pages is one that a program exports; no panel is without data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.observability.conftest import Stack
from tests.observability.promql import names_in

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "slipway" / "files"
RULES = [r for group in yaml.safe_load((FILES / "rules.yaml").read_text())["groups"] for r in group["rules"]]
DASHBOARDS = {
    file.stem: json.loads(file.read_text()) for file in sorted((FILES / "dashboards").glob("*.json"))
}
PANELS = [
    pytest.param(target["expr"], id=f"{name}: {panel['title']} {target['refId']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
Ask = Callable[[str], list[dict[str, Any]]]


def called(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or f"{rule['record']} {rule.get('labels', {}).get('slo', '')}")


@pytest.fixture(scope="module")
def exported(stack: Stack) -> set[str]:
    """The names of all series that the programs' metrics announce, with or without a sample yet."""
    found = set()
    for text in stack.samples().values():
        for family in text_string_to_metric_families(text):
            found |= {family.name + suffix for suffix in SUFFIXES.get(family.type, ("",))}
    return found


def names(expr: str, exported: set[str]) -> set[str]:
    """The names that an expression needs from the programs."""
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    vllm = {name.replace("slipway:", "vllm:") for name in exported}
    return names_in(expr) - recorded - vllm


@pytest.mark.parametrize("rule", RULES, ids=called)
def test_a_rule_names_what_is_exported(rule: dict[str, Any], exported: set[str]) -> None:
    assert names_in(rule["expr"])
    assert names(rule["expr"], exported) <= exported


@pytest.mark.parametrize("expr", PANELS)
def test_a_panel_names_what_is_exported(expr: str, exported: set[str]) -> None:
    assert names_in(expr)
    assert names(expr, exported) <= exported


def test_variables_name_what_is_exported(exported: set[str]) -> None:
    asked = [
        variable["query"]["query"]
        for dashboard in DASHBOARDS.values()
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    assert {re.sub(r"label_values\((\w+).*", r"\1", query) for query in asked} <= exported


def test_every_metric_of_ours_is_documented_and_every_documented_one_is_there(exported: set[str]) -> None:
    page = (ROOT / "docs" / "operations" / "metrics.md").read_text(encoding="utf-8")
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in exported
        if name.startswith("slipway") and not name.endswith("_created")
    }
    assert set(re.findall(r"`(slipway[_:]\w+)`", page)) == ours


@pytest.mark.parametrize("expr", PANELS)
def test_no_panel_is_without_data(expr: str, ask: Ask) -> None:
    text = expr.replace("$__rate_interval", "1m").replace("${engine}", "slipway")
    text = text.replace("$namespace", "team").replace("$deployment", "chat")
    result = ask(text)
    assert result, text
    assert all(not math.isnan(float(one["value"][1])) for one in result), result


@pytest.mark.parametrize("rule", [rule for rule in RULES if "record" in rule], ids=called)
def test_a_recording_rule_has_a_value_for_the_deployment(rule: dict[str, Any], ask: Ask) -> None:
    labels = {"namespace": "team", "deployment": "chat", **rule.get("labels", {})}
    matchers = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    assert ask(f"{rule['record']}{{{matchers}}}")


def test_no_alert_fires_over_programs_that_are_well(ask: Ask) -> None:
    assert not ask('ALERTS{alertstate="firing"}')
