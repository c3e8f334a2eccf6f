"""Usage records as OTLP: what OpenTelemetry's own messages read, and what becomes of those nobody takes."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from aiohttp import ClientSession, web
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from prometheus_client import CollectorRegistry, generate_latest

from slipway_gateway import otlp
from slipway_gateway.objects import Key
from slipway_gateway.otlp import Exporter, NoCollector, Target, target_of
from slipway_gateway.record import Record
from slipway_gateway.usage import Tally

from .conftest import OK, deployment


class CollectorStub:
    """Reads each request with OpenTelemetry's generated messages, which refuse what is not OTLP."""

    def __init__(self):
        self.records, self.answers, self.headers = [], [], []

    async def take(self, request):
        self.headers.append(dict(request.headers))
        if self.answers:
            status, headers, content = self.answers.pop(0)
            if status != 200:
                return web.Response(status=status, headers=headers)
        else:
            content = {}
        message = json_format.Parse(await request.text(), ExportLogsServiceRequest())
        (resource,) = message.resource_logs
        names = {each.key: each.value.string_value for each in resource.resource.attributes}
        assert names["service.name"] == "slipway-gateway"
        (scope,) = resource.scope_logs
        self.records += scope.log_records
        return web.json_response(content)

    def ids(self):
        return [attributes(record)["request_id"].string_value for record in self.records]


def attributes(record):
    return {each.key: each.value for each in record.attributes}


@pytest.fixture
async def collector():
    stub = CollectorStub()
    app = web.Application()
    app.router.add_post("/v1/logs", stub.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stub.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    yield stub
    await runner.cleanup()


def record(number=0, **more):
    return Record(f"req-{number}", "POST", "/v1/completions", **more)


def metrics(exporter):
    registry = CollectorRegistry()
    registry.register(exporter)
    lines = generate_latest(registry).decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}


async def send(exporter, times=1):
    async with ClientSession(trust_env=False) as session:
        return [await exporter._send(session) for _ in range(times)]


async def test_a_record_is_a_log_record_with_the_lines_fields(collector):
    exporter = Exporter(target_of(collector.url, {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x=1"}))
    tally = Tally(prompt=2**40, answer=7, exact=True)
    exporter.write(
        record(
            tenant="a",
            deployment=Key("n", "d"),
            digest="sha256:1",
            status=200,
            tally=tally,
            trace_id="ab" * 16,
        )
    )
    assert await send(exporter) == [None]
    (found,) = collector.records
    values = attributes(found)
    assert found.body.string_value == "request"
    assert base64.b64encode(found.trace_id).decode() == "ab" * 16  # OTLP's JSON has ids in hexadecimal
    assert found.time_unix_nano > 1.7e18
    assert values["prompt_tokens"].int_value == 2**40
    assert values["tokens_estimated"].bool_value is False
    assert values["deployment"].string_value == "n/d"
    assert values["ms"].double_value >= 0
    assert "pod" not in values  # nothing is not sent as an empty text
    assert collector.headers[0]["api-key"] == "a b"


async def test_what_a_collector_cannot_take_now_waits_and_comes_later_once(collector):
    exporter = Exporter(Target(collector.url + "/v1/logs"))
    collector.answers = [(503, {"Retry-After": "3"}, None), (429, {}, None)]
    exporter.write(record(1))
    exporter.write(record(2))
    assert await send(exporter, 2) == [3.0, otlp.EVERY]
    assert metrics(exporter)["slipway_gateway_usage_records_waiting"] == 2
    assert await send(exporter) == [None]
    assert collector.ids() == ["req-1", "req-2"]
    assert metrics(exporter)["slipway_gateway_usage_records_sent_total"] == 2


async def test_a_collector_that_is_away_costs_the_oldest_beyond_a_bound(collector, monkeypatch):
    monkeypatch.setattr(otlp, "MOST_WAITING", 3)
    exporter = Exporter(Target("http://127.0.0.1:9/v1/logs"))
    for number in range(5):
        exporter.write(record(number))
    assert await send(exporter) == [otlp.EVERY]
    exporter._target = Target(collector.url + "/v1/logs")
    await send(exporter)
    assert collector.ids() == ["req-2", "req-3", "req-4"]
    assert metrics(exporter)["slipway_gateway_usage_records_lost_total"] == 2


async def test_records_pushed_out_while_they_are_sent_take_no_newer_ones_along(collector, monkeypatch):
    monkeypatch.setattr(otlp, "MOST_WAITING", 2)
    exporter = Exporter(Target(collector.url + "/v1/logs"))
    for number in range(2):
        exporter.write(record(number))
    sending = asyncio.create_task(send(exporter))
    await asyncio.sleep(0)
    for number in range(2, 5):
        exporter.write(record(number))
    await sending
    await send(exporter)
    assert collector.ids()[-2:] == ["req-3", "req-4"]


async def test_what_a_collector_refuses_is_counted_and_not_sent_again(collector):
    exporter = Exporter(Target(collector.url + "/v1/logs"))
    collector.answers = [(200, {}, {"partialSuccess": {"rejectedLogRecords": "1"}}), (400, {}, None)]
    exporter.write(record(1))
    exporter.write(record(2))
    assert await send(exporter) == [None]
    exporter.write(record(3))
    assert await send(exporter) == [None]
    found = metrics(exporter)
    assert found["slipway_gateway_usage_records_lost_total"] == 2
    assert found["slipway_gateway_usage_records_waiting"] == 0


async def test_a_gateway_sends_what_it_wrote_before_it_ends(start, collector):
    cluster = await start(otlp=Target(collector.url + "/v1/logs"))
    await cluster.deploy(deployment("team-a", "one"))
    await cluster.pod(OK, of="team-a/one")
    assert (await cluster.chat("one"))[0] == 200
    await cluster.gateway.stop()
    lines = [json.loads(line) for line in cluster.log.getvalue().splitlines()]
    assert collector.ids() == [line["request_id"] for line in lines if line["kind"] == "request"]
    assert "choices" not in str(collector.records)


def test_where_records_go():
    assert target_of("", {}) is None
    assert target_of("http://c:4318/", {}).url == "http://c:4318/v1/logs"
    assert target_of("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c"}).url == "https://c/v1/logs"
    assert target_of("", {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://c/x"}).url == "https://c/x"
    assert "secret" not in repr(target_of("http://c", {"OTEL_EXPORTER_OTLP_HEADERS": "k=secret"}))
    for wrong in ("c:4318", "ftp://c", "http://"):
        with pytest.raises(NoCollector, match="is no URL"):
            target_of(wrong, {})
