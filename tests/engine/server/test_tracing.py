"""Spans, as a collector receives them: a real server sends, a real OTLP receiver of this test decodes."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from slipway_engine.errors import InvalidArgument
from slipway_engine.server.tracing import NoTracer, open_tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector():
    """Yield the address of an OTLP/HTTP receiver and the list of what it has received."""
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Encoding"] in (None, "identity")
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def spans(received):
    return [
        (resource, span)
        for _, request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(holder):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


def test_a_request_leaves_a_span_under_its_callers_trace(collector, start_server):
    address, received = collector
    server = start_server(otlp_endpoint=address)
    fields = {"model": "toy", "prompt": "zanzibar quokka", "max_tokens": 3}
    server.http.post("/v1/completions", json=fields, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    server.complete(prompt="x", max_tokens=-1)
    server.until(lambda: len(server.requests_logged()) == 2)
    assert server.requests_logged()[0]["trace_id"] == TRACE
    assert server.stop() == 0  # what is left is sent at the end
    (resource, first), (_, second) = spans(received)
    assert {path for path, _ in received} == {"/v1/traces"}
    assert attributes(resource.resource)["service.name"] == "toy"
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert first.name == "POST /v1/completions"
    told = attributes(first)
    assert told["gen_ai.operation.name"] == "text_completion"
    assert (told["gen_ai.usage.output_tokens"], told["http.response.status_code"]) == (3, 200)
    assert 0 < told["gen_ai.latency.time_to_first_token"] < 30
    assert first.end_time_unix_nano > first.start_time_unix_nano
    assert attributes(second)["error.type"] == "invalid_value"
    assert second.trace_id.hex() != TRACE
    assert b"zanzibar" not in b"".join(request.SerializeToString() for _, request in received)


def test_a_collector_that_is_away_keeps_nobody_waiting(start_server):
    server = start_server(otlp_endpoint="http://127.0.0.1:9")
    assert server.complete(prompt="x", max_tokens=1).status_code == 200
    assert server.stop() == 0


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://x", "http://", ""])
def test_an_endpoint_that_is_none_is_named(endpoint):
    with pytest.raises(InvalidArgument, match="--otlp-traces-endpoint"):
        open_tracer(endpoint, "toy")


def test_without_the_extra_the_error_names_it():
    """In a process of its own, in which the exporter cannot be imported."""
    program = (
        "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
        "from slipway_engine.server.tracing import open_tracer\n"
        "open_tracer('http://x:1', 'toy')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'slipway[tracing]'" in done.stderr


def test_no_endpoint_is_no_tracer():
    assert isinstance(open_tracer(None, "toy"), NoTracer)
