"""A Prometheus as a source: what it says, says in part, says wrongly, or does not say."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipway_operator.autoscale.load import Load
from slipway_operator.kinds import Key
from slipway_operator.plan.profiles import SLIPWAY
from slipway_operator.settings import parse_settings
from slipway_operator.signals.connection import Connection, connection_of
from slipway_operator.signals.prometheus import Prometheus
from slipway_operator.signals.source import Asked

NOW = 10_000.0
REFUSAL = '{"status": "error", "errorType": "execution", "error": "too many samples"}'
SKEW = 3600.0
"""The Prometheus' clock is an hour behind ours."""


class Server:
    """A Prometheus' query API, answering over real HTTP with the shapes of the real one."""

    def __init__(self) -> None:
        self.matrix: list[dict[str, Any]] = []
        self.vectors: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.asked: list[tuple[str, Any]] = []
        self.raw: web.Response | None = None

    async def query(self, request: web.Request) -> web.Response:
        query = (await request.post())["query"]
        self.asked.append((query, request.headers))
        if self.raw is not None:
            return web.Response(status=self.raw.status, text=self.raw.text)
        if query == "time()":
            return self.success("scalar", [NOW - SKEW, str(NOW - SKEW)])
        if query in self.vectors:
            answer = self.vectors[query]
            return answer if isinstance(answer, web.Response) else self.success(*answer)
        return self.success("matrix", self.matrix)

    def success(self, kind: str, result: Any) -> web.Response:
        body = {"status": "success", "data": {"resultType": kind, "result": result}}
        return web.json_response(body | ({"warnings": self.warnings} if self.warnings else {}))

    def series(self, pod: str, name: str, *values: tuple[float, float], **labels: str) -> None:
        """Add a series; times are seconds before now."""
        metric = {"__name__": f"slipway:{name}", "namespace": "team", "pod": pod, **labels}
        samples = [[NOW - SKEW - ago, str(value)] for ago, value in values]
        self.matrix.append({"metric": metric, "values": samples})


@pytest.fixture
async def server():
    return Server()


@pytest.fixture
async def connect(server):
    application = web.Application()
    application.router.add_post("/prom/api/v1/query", server.query)
    opened = []
    async with TestServer(application) as running:

        def make(**more: Any) -> Prometheus:
            source = Prometheus(Connection(f"http://127.0.0.1:{running.port}/prom", **more))
            opened.append(source)
            return source

        yield make
        for source in opened:
            await source.close()


def pod(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team", "uid": name},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def asked(*pods: str, **more: Any) -> Asked:
    return Asked(Key("team", "chat"), [pod(name) for name in pods], SLIPWAY.metrics, 8000, "/metrics", **more)


def report(server: Server, name: str, running: float, ago: float = 5.0, **labels: str) -> None:
    for metric, value in (("num_requests_running", running), ("num_requests_waiting", 1)):
        server.series(name, metric, (ago + 15, 0), (ago, value), **labels)
    server.series(name, "inter_token_latency_seconds_sum", (ago + 15, 10.0), (ago, 12.0), **labels)
    server.series(name, "inter_token_latency_seconds_count", (ago + 15, 100), (ago, 140), **labels)
    server.series(name, "e2e_request_latency_seconds_count", (ago + 15, 10), (ago, 13), **labels)


async def test_samples_come_with_their_own_time_whatever_the_clocks_say(server, connect):
    report(server, "a", 7)
    report(server, "b", 3, ago=120)
    source = connect()
    seen = await source.look(asked("a", "b"), NOW)
    load = Load(NOW, 2, 2, seen.pods, fresh_for=source.fresh_for)
    assert {one.name: one.at for one in seen.pods} == pytest.approx({"a": NOW - 5, "b": NOW - 120})
    assert [one.name for one in load.fresh] == ["a"]
    assert load.silent == 1
    (a,) = load.fresh
    assert (a.running, a.waiting, a.tpot, a.finishing) == pytest.approx((7, 1, 0.05, 0.2))


async def test_the_past_is_every_pair_of_samples_and_an_outage_has_none(server, connect):
    for metric, values in (
        ("num_requests_running", (3, 5, 8)),
        ("num_requests_waiting", (0, 0, 1)),
        ("inter_token_latency_seconds_sum", (1, 3, 6)),
        ("inter_token_latency_seconds_count", (10, 50, 90)),
    ):
        server.series(
            "a", metric, *((ago, value) for ago, value in zip((3000, 2985, 2970), values, strict=True))
        )
    found = await connect().past(asked("a"), NOW)
    assert [one.at for one in found] == pytest.approx([NOW - 2985, NOW - 2970])
    assert [(one.running, one.tpot) for one in found] == [(5, 0.05), (8, 0.075)]
    assert "[7200s]" in server.asked[-1][0]
    server.raw = web.Response(status=503, text=REFUSAL)
    assert await connect().past(asked("a"), NOW) == ()


async def test_a_pod_that_is_collected_twice_counts_once(server, connect):
    report(server, "a", 7, ago=20, job="podmonitor")
    report(server, "a", 8, ago=5, job="servicemonitor")
    seen = await connect().look(asked("a"), NOW)
    assert [one.running for one in seen.pods] == [8]


async def test_a_colon_that_an_exporter_wrote_as_an_underscore_is_no_other_metric(server, connect):
    report(server, "a", 7)
    for one in server.matrix:
        one["metric"]["__name__"] = one["metric"]["__name__"].replace(":", "_")
    seen = await connect().look(asked("a"), NOW)
    assert [one.running for one in seen.pods] == [7]
    assert "slipway[:_]num_requests_running" in server.asked[-1][0]


async def test_a_pod_without_samples_is_silent_and_told(server, connect):
    report(server, "a", 7)
    seen = await connect().look(asked("a", "b"), NOW)
    assert [one.name for one in seen.pods] == ["a"]
    assert seen.problems == ("Prometheus has no samples of pod b",)


async def test_it_asks_for_these_pods_with_everything_that_was_set(server, connect, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    source = connect(token_file=token, tenant="blue", headers={"X-More": "1"}, pod_label="kube_pod")
    await source.look(asked("a", "b.c"), NOW)
    query, headers = server.asked[-1]
    assert 'namespace="team",kube_pod=~"a|b[.]c"}[180s]' in query
    assert headers["Authorization"] == "Bearer secret"
    assert (headers["X-Scope-OrgID"], headers["X-More"]) == ("blue", "1")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (web.Response(status=502), "answers 502"),
        (web.Response(status=302), "answers 302"),
        (web.Response(text="<html>"), "no JSON"),
        (web.Response(text='{"status": "success"}'), "none of its API"),
        (web.Response(text="[]"), "none of its API"),
        (web.Response(status=422, text=REFUSAL), "too many"),
    ],
)
async def test_an_answer_that_is_none_leaves_everything_unknown_and_is_told(server, connect, raw, said):
    report(server, "a", 7)
    server.raw = raw
    seen = await connect().look(asked("a", queries={"metrics[0]": "x"}), NOW)
    assert seen.pods == ()
    assert seen.values == {"metrics[0]": None}
    assert said in seen.problems[0]
    assert Load(NOW, 1, 1, seen.pods).blind


def certify(folder: Path) -> None:
    """Make a certificate for 127.0.0.1 that vouches for itself."""
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=prometheus"
    words += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out ca.pem"
    subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)


async def test_over_tls_only_who_is_vouched_for_gets_the_token(server, tmp_path):
    certify(tmp_path)
    offered = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    offered.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    (tmp_path / "token").write_text("secret")
    application = web.Application()
    application.router.add_post("/api/v1/query", server.query)
    report(server, "a", 7)
    running = TestServer(application, scheme="https")
    await running.start_server(ssl=offered)
    try:
        url = f"https://127.0.0.1:{running.port}"
        for ca, good, said in (
            (tmp_path / "ca.pem", True, ""),
            (None, False, "certificate"),
            (tmp_path / "none.pem", False, "FileNotFoundError"),
        ):
            server.asked.clear()
            source = Prometheus(Connection(url, ca_file=ca, token_file=tmp_path / "token"))
            seen = await source.look(asked("a"), NOW)
            await source.close()
            assert bool(seen.pods) == good == bool(server.asked)
            assert all(headers["Authorization"] == "Bearer secret" for _, headers in server.asked)
            assert said in " ".join(seen.problems)
    finally:
        await running.close()


async def test_an_outage_is_told(unused_port):
    source = Prometheus(Connection(f"http://127.0.0.1:{unused_port}"))
    seen = await source.look(asked("a"), NOW)
    assert seen.pods == ()
    assert "does not answer" in seen.problems[0]
    await source.close()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "value", "said"),
    [
        (("vector", [{"metric": {}, "value": [1, "4.5"]}]), 4.5, ""),
        (("scalar", [1, "3"]), 3.0, ""),
        (("vector", []), None, "0 results"),
        (("vector", [{"metric": {}, "value": [1, "1"]}] * 2), None, "2 results"),
        (("vector", [{"metric": {}, "value": [1, "NaN"]}]), None, "no number"),
        (("matrix", []), None, "the result is a matrix"),
    ],
)
async def test_a_users_query_is_one_number_or_unknown(server, connect, answer, value, said):
    server.vectors["sum(x)"] = answer
    seen = await connect().look(asked(queries={"metrics[0]": "sum(x)"}), NOW)
    assert seen.values == {"metrics[0]": value}
    assert said in " ".join(seen.problems)


async def test_an_answer_in_part_is_no_sum(server, connect):
    server.vectors["sum(x)"] = ("vector", [{"metric": {}, "value": [1, "4"]}])
    server.warnings = ["a store did not answer"]
    seen = await connect().look(asked(queries={"metrics[0]": "sum(x)"}), NOW)
    assert seen.values == {"metrics[0]": None}
    assert "in part: a store did not answer" in seen.problems[0]


async def test_queries_of_the_installation_replace_what_is_read(server, connect):
    report(server, "a", 7)
    query = 'busy{ns="team",p=~"a|b"}'
    server.vectors[query] = ("vector", [{"metric": {"pod": "a"}, "value": [1, "21"]}])
    source = connect(queries={"running": 'busy{ns="$namespace",p=~"$pods"}'})
    seen = await source.look(asked("a", "b"), NOW)
    assert {one.name: one.running for one in seen.pods} == {"a": 21}  # b has no result: unknown, not zero


async def test_a_metric_name_that_is_none_reaches_no_query(server, connect):
    names = {**SLIPWAY.metrics, "num_requests_running": 'x"} or vector(1) #'}
    strange = Asked(Key("team", "chat"), [pod("a")], names, 8000, "/metrics")
    seen = await connect().look(strange, NOW)
    assert "no name of a metric" in seen.problems[0]
    assert [query for query, _ in server.asked if "vector(1)" in query] == []


def test_the_settings_take_a_connection_and_nothing_else():
    text = '{"url": "https://prom:9090", "caFile": "/ca", "headers": {}, "queries": {"running": "x"}}'
    found = parse_settings(["run"], {"SLIPWAY_PROMETHEUS": text}).prometheus
    assert found is not None
    assert (found.url, found.ca_file, found.tenant) == ("https://prom:9090", Path("/ca"), "")
    assert parse_settings(["run"], {}).prometheus is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "prom:9090"}, "no URL"),
        ({"url": "http://u:p@prom"}, "no URL"),
        ({"url": "http://p", "uri": "x"}, "no setting"),
        ({"url": "http://p", "queries": {"run": "x"}}, "unknown"),
        ({"url": "http://p", "podLabel": 'x"'}, "labels"),
        ({"url": "http://p", "freshSeconds": 5}, "between"),
    ],
)
def test_other_settings_are_refused_by_name(given, said):
    with pytest.raises(ValueError, match=said):
        connection_of(given)
