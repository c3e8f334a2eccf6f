"""Recorded traffic: what a Prometheus kept becomes requests again, and an edit is tried on them."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import subprocess
import time
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.errors import ClusterError
from e2e.prometheus import program

from slipway_operator.autoscale.capacity import Learned, capacity, learn
from slipway_operator.kinds import Key
from slipway_operator.plan.profiles import SLIPWAY
from slipway_operator.plugin.installation import prometheus_of
from slipway_operator.plugin.main import main as plugin
from slipway_operator.signals.connection import Connection
from slipway_operator.signals.prometheus import Prometheus
from slipway_operator.signals.source import Asked
from slipway_operator.simulate.history import by_url, gather, service_path
from slipway_operator.simulate.main import main as simulate
from slipway_operator.simulate.recorded import queries, record, series_of, step_of
from slipway_operator.simulate.trace import TraceError

LEARNED = {
    "replica": "30",
    "boundedBy": "x",
    "baseSeconds": "0.03",
    "eachSeconds": "0.004",
    "startSeconds": "90",
}
STATUS = {
    "autoscaling": {"learned": LEARNED},
    "plan": {
        "memory": {"maxTokens": 100_000},
        "effective": [{"field": "engine.maxNumSeqs", "value": "32", "from": "built-in"}],
    },
}


def manifest(**scaling: Any) -> dict[str, Any]:
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "chat", "namespace": "team"},
        "spec": {
            "model": {"source": "hf://org/model"},
            "slo": {"ttftMs": 2000, "tpotMs": 150},
            "autoscaling": {"maxReplicas": 8, **scaling},
        },
        "status": STATUS,
    }


def rows(step: int, *values: float) -> dict[float, float]:
    return {1000.0 + step * (index + 1): value for index, value in enumerate(values) if not math.isnan(value)}


def test_what_ended_and_what_came_to_stay_have_arrived() -> None:
    nothing = math.nan
    found = {
        "ended": rows(60, 0, 30, 60, 20, nothing),
        "present": rows(60, 30, 30, 10, 0, nothing),
        "prompt": rows(60, 0, 30_000, 30_000, 4000, nothing),
        "answer": rows(60, 0, 3000, 6000, 2000, nothing),
    }
    made = record(found, 1000.0, 1300.0, 60, seed=1)
    by_step = [sum(60 * i <= one.at < 60 * (i + 1) for one in made.arrivals) for i in range(5)]
    assert by_step == [30, 30, 40, 10, 0]
    assert made.missing == pytest.approx(0.2)
    second = [one.prompt for one in made.arrivals if 60 <= one.at < 120]
    third = [one.prompt for one in made.arrivals if 120 <= one.at < 180]
    assert sum(second) / 30 > 1.4 * sum(third) / 40  # means of 1,000 and of 500
    assert record(found, 1000.0, 1300.0, 60, seed=1) == made


def test_no_request_and_no_metric_are_told() -> None:
    empty: dict[str, dict[float, float]] = {key: {} for key in ("ended", "present", "prompt", "answer")}
    with pytest.raises(TraceError, match="knows no request"):
        record(empty, 0.0, 600.0, 60, seed=1)
    with pytest.raises(TraceError, match="prompt_tokens_total"):
        queries({k: v for k, v in SLIPWAY.metrics.items() if k != "prompt_tokens_total"}, "n", "d", 60)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": "error", "error": "too many samples"}, "too many samples"),
        ({"status": "success", "data": {"result": [{"values": [1]}]}}, "no Prometheus"),
        ([], "no Prometheus"),
        ({}, "no Prometheus"),
    ],
)
def test_an_answer_that_is_none_is_told(answer: Any, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        series_of(answer)
    text = json.dumps({"status": "success", "data": {"result": [{"values": [[1, "NaN"], [2, "3"]]}]}})
    assert series_of(json.loads(text)) == {2.0: 3.0}


def test_steps_fit_into_one_answer() -> None:
    assert step_of(3600) == 30
    assert 30 * 86_400 / step_of(30 * 86_400) <= 11_000


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://prometheus.monitoring:9090", "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy"),
        (
            "https://q.obs.svc.cluster.local/prom/",
            "/api/v1/namespaces/obs/services/https:q:443/proxy/prom",
        ),
        ("https://prometheus.example.com", None),
        ("http://localhost:9090", None),
    ],
)
def test_a_service_is_reached_through_the_api_server(url: str, path: str | None) -> None:
    assert service_path(url) == path


def test_the_operators_own_prometheus_is_found() -> None:
    given = json.dumps({"url": "http://prometheus.monitoring:9090"})
    container: dict[str, Any] = {"env": [{"name": "SLIPWAY_PROMETHEUS", "value": given}]}
    operator = {"spec": {"template": {"spec": {"containers": [container]}}}}
    assert prometheus_of(operator) == "http://prometheus.monitoring:9090"
    container["env"] = []
    assert prometheus_of(operator) is None


def test_a_picture_is_a_png_of_the_size_that_it_says(tmp_path: Path) -> None:
    path = tmp_path / "day.png"
    assert simulate(["--hours", "0.2", "--compare", "static", "-o", "json", "--plot", str(path)]) == 0
    body = path.read_bytes()
    assert body[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(body):
        (size,) = struct.unpack(">I", body[at : at + 4])
        kind, data = body[at + 4 : at + 8], body[at + 8 : at + 8 + size]
        assert struct.unpack(">I", body[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        at += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert len(pixels) == height * (width + 1)
    assert {0, 1, 3} <= set(pixels)  # paper, words, the first line
    with pytest.raises(SystemExit):
        simulate(["--plot", "day.gif"])


@dataclass(frozen=True)
class Kept:
    url: str
    begin: float
    end: float


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A real Prometheus with three hours of one deployment: 0.5 requests a second, 2 in the second hour."""
    try:
        server_program, tool = program("prometheus"), program("promtool")
    except ClusterError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("prometheus")
    end = time.time() // 60 * 60 - 600
    begin = end - 3 * 3600
    lines = openmetrics(begin, end)
    (folder / "past.txt").write_text("\n".join(lines) + "\n# EOF\n")
    (folder / "prometheus.yml").write_text("global: {}\n")
    made = subprocess.run(
        [str(tool), "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(server_program), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"], cwd=folder,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            try:
                with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                    break
            except OSError:
                time.sleep(0.2)
        yield Kept(url, begin, end)
    finally:
        server.terminate()
        server.wait(20)


def openmetrics(begin: float, end: float) -> list[str]:
    """Return samples every 15 s of two pods of the deployment, and of one of another of a like name."""
    pods = ("chat-0123456789-abc-x1", "chat-0123456789-abc-x2", "chat-large-0123456789-abc-x3")
    values: dict[str, list[str]] = {}
    ended = prompt = answer = tokens = waited = 0.0
    for at in range(int(begin), int(end), 15):
        rate = 2.0 if begin + 3600 <= at < begin + 7200 else 0.5
        ended, prompt, answer = ended + 15 * rate / 2, prompt + 15 * rate * 400, answer + 15 * rate * 50
        tokens, waited = tokens + 15 * rate * 50, waited + 15 * rate * 50 * (0.02 + 0.005 * 3 * rate)
        if at - begin == 5400:  # both engines began anew
            ended = prompt = answer = tokens = waited = 0.0
        for name, value in (
            ("slipway:num_requests_running", rate * 3),
            ("slipway:num_requests_waiting", 0.0),
            ("slipway:e2e_request_latency_seconds_count", ended),
            ("slipway:prompt_tokens_total", prompt),
            ("slipway:generation_tokens_total", answer),
            ("slipway:inter_token_latency_seconds_count", tokens),
            ("slipway:inter_token_latency_seconds_sum", waited),
        ):
            for pod in pods:
                labels = f'{{namespace="team",pod="{pod}"}}'
                values.setdefault(name, []).append(f"{name}{labels} {value} {at}")
    return [line for of_it in values.values() for line in of_it]


def test_a_real_prometheus_gives_the_traffic_back(kept: Kept) -> None:
    found = gather(by_url(kept.url), SLIPWAY.metrics, Key("team", "chat"), kept.begin, kept.end, seed=1)
    counts = [sum(3600 * i <= one.at < 3600 * (i + 1) for one in found.arrivals) for i in range(3)]
    assert counts == pytest.approx([1800, 7200, 1800], rel=0.03)
    lengths = [one.prompt for one in found.arrivals]
    assert sum(lengths) / len(lengths) == pytest.approx(800, rel=0.05)
    assert sum(one.answer for one in found.arrivals) / len(lengths) == pytest.approx(100, rel=0.05)
    assert found.missing < 0.02
    with pytest.raises(TraceError, match="knows no request"):
        gather(by_url(kept.url), SLIPWAY.metrics, Key("team", "other"), kept.begin, kept.end, seed=1)


def test_slipway_simulate_plays_ones_own_prometheus(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chat.yaml"
    file.write_text(yaml.safe_dump(manifest(spareReplicas=1)))
    words = ["--prometheus", kept.url, "-f", str(file), "--since", "5", "--compare", "slipway,static"]
    assert simulate([*words, "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert [one["policy"] for one in json.loads(out)] == ["chat", "static 10"]
    assert "prefill 8000 is assumed" in err
    assert "has no samples" in err
    assert "each 0.0" not in err  # the status tells
    assert simulate(["--prometheus", kept.url]) == 2


def test_an_edit_is_replayed_through_the_api_server(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """kubectl is a script here that hands the proxied path to the real Prometheus."""
    variable = {"name": "SLIPWAY_PROMETHEUS", "value": '{"url": "http://prometheus.monitoring:9090"}'}
    operator = {"spec": {"template": {"spec": {"containers": [{"env": [variable]}]}}}}
    (tmp_path / "operators.json").write_text(json.dumps({"items": [operator]}))
    (tmp_path / "chat.json").write_text(json.dumps(manifest()))
    script = tmp_path / "kubectl"
    script.write_text(
        "#!/usr/bin/env python3\n"
        "import pathlib, sys, urllib.request\n"
        f"here, url = pathlib.Path({str(tmp_path)!r}), {kept.url!r}\n"
        "words, proxy = sys.argv[1:], '/api/v1/namespaces/monitoring/services/prometheus:9090/proxy'\n"
        "raw = next((w for w in words if w.startswith('/')), '')\n"
        "if raw:\n    assert raw.startswith(proxy), raw\n"
        "    print(urllib.request.urlopen(url + raw[len(proxy):]).read().decode())\n"
        "elif 'deployments.v1.apps' in words:\n    print((here / 'operators.json').read_text())\n"
        "elif words[:2] == ['-n', 'team'] and 'chat' in words:\n    print((here / 'chat.json').read_text())\n"
        "else:\n    sys.exit(f'not expected: {words}')\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    edited, plot = tmp_path / "edited.yaml", tmp_path / "edit.png"
    edited.write_text(yaml.safe_dump(manifest(minReplicas=4)))
    words = ["simulate", "-n", "team", "-f", str(edited), "--since", "5h", "-o", "json", "--plot", str(plot)]
    assert plugin(words) == 0
    present, after = json.loads(capsys.readouterr().out)
    assert (present["policy"], after["policy"]) == ("as it is", "edited")
    assert after["replica_hours"] > present["replica_hours"] > 0
    assert after["slo_percent"] >= present["slo_percent"]
    assert plot.stat().st_size > 1000
    assert plugin(["simulate", "-n", "team", "-f", str(edited), "--since", "1m"]) == 1
    assert "knows no request" in capsys.readouterr().err


async def test_an_operator_without_a_status_learns_from_a_real_prometheus(kept: Kept) -> None:
    """Of the last two hours: six requests in a pod, then one and a half, and a restart before."""
    pods = [
        {"metadata": {"name": f"chat-0123456789-abc-{end}", "namespace": "team", "uid": end}, "status": {}}
        for end in ("x1", "x2")
    ]
    source = Prometheus(Connection(kept.url))
    try:
        asked = Asked(Key("team", "chat"), pods, SLIPWAY.metrics, 8000, "/metrics")
        past = await source.past(asked, time.time())
    finally:
        await source.close()
    learned = Learned()
    for load in past:
        learned = learn(learned, [load], load.at)
    line = learned.line()
    assert len(past) > 600
    assert line == pytest.approx((0.02, 0.005), rel=0.05)
    assert capacity(learned, 64, 0.15)[0] == pytest.approx((0.9 * 0.15 - 0.02) / 0.005, rel=0.05)
