"""What others see of the operator: its command line, its health pages, its metrics and its logs."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import aiohttp
import pytest

from slipway_operator.health import Health, serve_health, serve_metrics
from slipway_operator.kinds import Key
from slipway_operator.logs import JsonFormatter
from slipway_operator.metrics import Metrics
from slipway_operator.settings import parse_settings


async def get(port, path):
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_health_says_what_is_wrong_and_readiness_includes_it():
    ailments, obstacles, health = [], [], Health()
    health.require(lambda: ailments)
    health.require(lambda: obstacles, alive=False)
    async with serve_health(health, "127.0.0.1", 0) as port:
        assert await get(port, "/healthz") == (200, "ok\n")
        assert await get(port, "/readyz") == (200, "ok\n")
        obstacles.append("the store is being filled")
        assert await get(port, "/healthz") == (200, "ok\n")
        assert await get(port, "/readyz") == (503, "the store is being filled\n")
        ailments.append("the watch of pods is dead")
        assert await get(port, "/healthz") == (503, "the watch of pods is dead\n")
        assert (await get(port, "/readyz"))[1] == "the watch of pods is dead\nthe store is being filled\n"
        assert (await get(port, "/secret"))[0] == 404


async def test_metrics_are_served_in_prometheus_text():
    metrics = Metrics()
    metrics.count_request("apply", "deployments", "200")
    metrics.watch_gauge("depth", "Depth.", lambda: 3)
    async with serve_metrics(metrics.render, "127.0.0.1", 0) as port:
        status, text = await get(port, "/metrics")
    assert status == 200
    assert 'slipway_operator_api_requests_total{code="200",resource="deployments",verb="apply"} 1.0' in text
    assert "\ndepth 3.0\n" in text


def test_every_metric_is_explained():
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/operations/metrics.md").read_text()
    sources = (path.read_text() for path in (root / "operator/slipway_operator").rglob("*.py"))
    names = {name for source in sources for name in re.findall(r'"(slipway_operator_\w+)"', source)}
    assert len(names) >= 10
    assert {name for name in names if f"`{name}" not in page} == set()


def test_settings_come_from_flags_and_environment():
    environment = {"SLIPWAY_ENGINE_IMAGE": "e:1", "POD_NAME": "pod-1", "POD_NAMESPACE": "system"}
    settings = parse_settings(["run"], environment)
    assert settings.engine_image == "e:1"
    assert (settings.identity, settings.lease_namespace) == ("pod-1", "system")
    assert settings.scopes == (None,)
    assert (settings.health_port, settings.metrics_port) == (8080, 9090)
    flags = [
        "run",
        "--namespace",
        "b",
        "--namespace",
        "a",
        "--namespace",
        "a",
        "--engine-image",
        "f:2",
        "--workers",
        "3",
    ]
    settings = parse_settings(flags, environment)
    assert settings.scopes == ("a", "b")
    assert (settings.engine_image, settings.workers) == ("f:2", 3)
    assert settings.installation.engine_image == "f:2"
    assert settings.installation.peers == ()
    given = {
        "SLIPWAY_ADMIT": '[{"podSelector": {}}]',
        "SLIPWAY_FETCH_ENVIRONMENT": '{"HF_ENDPOINT": "https://m"}',
    }
    settings = parse_settings(["run"], given)
    assert settings.installation.peers == ({"podSelector": {}},)
    assert settings.installation.environment == {"HF_ENDPOINT": "https://m"}
    assert parse_settings(["run", "--no-network-policies"], given).installation.peers is None
    one, other = (parse_settings(["run"], {}).identity for _ in range(2))
    assert one != other  # two operators outside a cluster are two


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "command"),
        (["run", "--health-port", "99999"], "write a number from 1 to 65535"),
        (["run", "--workers", "0"], "must be at least 1"),
        (["run", "--admit", "x"], "it is not JSON"),
        (["run", "--admit", "[{}]"], "write a list of peers"),
        (["run", "--fetch-environment", '{"A": 1}'], "write an object of strings"),
        (["run", "--log-level", "loud"], "invalid choice"),
    ],
)
def test_wrong_usage_is_refused_with_a_sentence(capsys, arguments, says):
    with pytest.raises(SystemExit) as exit_:
        parse_settings(arguments, {})
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


def test_a_log_line_is_json_with_the_object_it_is_about():
    record = logging.LogRecord(
        "slipway_operator.worker", logging.WARNING, "f", 1, "%s is late\n", ("it",), None
    )
    record.object = Key("team", "chat")
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    assert (parsed["level"], parsed["object"], parsed["message"]) == ("warning", "team/chat", "it is late\n")
    assert parsed["time"].endswith("+00:00")
