"""A server's life: loading, readiness, clients that leave, a core that dies, and a drain under load."""

import json
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from slipway_engine.errors import InvalidArgument
from slipway_engine.server.run import _listen

HANG, CRASH, DIE = 49140, 49141, 49142


def test_probes_answer_while_the_model_is_loaded(start_server):
    server = start_server(environment={"load": "2"}, ready=False).wait("/health")
    ready = server.http.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "loading")
    early = server.complete(prompt="x")
    assert (early.status_code, early.json()["error"]["code"]) == (503, "loading")
    assert int(early.headers["retry-after"]) >= 1
    assert server.http.get("/v1/models").status_code == 200
    assert server.http.get("/metrics").status_code == 200
    server.wait()
    assert server.complete(prompt="x", max_tokens=1).status_code == 200
    assert server.http.get("/version").json()["version"]


def test_a_stop_while_loading_is_prompt(start_server):
    server = start_server(environment={"load": "60"}, ready=False).wait("/health")
    assert server.stop(seconds=10) == 0


def test_a_model_that_cannot_be_loaded_ends_the_process_with_the_reason(start_server):
    server = start_server("UnloadableCore", ready=False)
    assert server.process.wait(20) == 1
    last = json.loads(server.last_words.read_text())
    assert last["reason"] == "ModelCorrupt"
    assert "fetch it again" in last["message"]


@pytest.mark.parametrize(("token", "says"), [(CRASH, "told to crash"), (DIE, "exit status 7")])
def test_a_core_that_dies_is_said_everywhere(start_server, token, says):
    server = start_server(environment={"step": "0.05"})
    with server.http.stream(
        "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 200, "stream": True}
    ) as bystander:
        lines = bystander.iter_lines()
        next(lines)
        culprit = server.complete(prompt=[token], max_tokens=1)
        assert culprit.status_code == 500
        assert says in culprit.json()["error"]["message"]
        health = server.http.get("/health")
        rest = [line for line in lines if line]
    assert says in json.loads(rest[-1].removeprefix("data: "))["error"]["message"]
    assert server.process.wait(20) == 1
    assert health.status_code == 500
    assert says in health.json()["message"]
    last = json.loads(server.last_words.read_text())
    assert last["reason"] == "Internal"
    assert says in last["message"]


def test_a_step_that_hangs_makes_health_fail_until_it_ends(start_server):
    server = start_server(environment={"hang": "2"}, least_step_seconds=0.3)
    assert server.http.get("/health").status_code == 200
    answer = threading.Thread(target=server.complete, kwargs={"prompt": [HANG], "max_tokens": 1})
    answer.start()
    server.until(lambda: httpx.get(f"{server.url}/health").status_code == 500)
    state = httpx.get(f"{server.url}/health").json()
    assert state["reason"] == "StepOverdue"
    assert "0.3 s are allowed" in state["message"]
    assert httpx.get(f"{server.url}/ready").status_code == 503
    answer.join()
    server.until(lambda: server.http.get("/health").status_code == 200)
    assert server.http.get("/ready").status_code == 200


def test_a_client_that_hangs_up_in_a_stream_frees_its_blocks(start_server):
    server = start_server(environment={"step": "0.01"}, max_model_len=4096)
    body = {"prompt": "a b c " * 20, "max_tokens": 4000, "stream": True, "n": 3}
    with server.http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()  # kept: the stream is closed with its iterator
        next(lines)
        server.until(lambda: server.metric("num_requests_running") == 3)
        assert server.metric("kv_cache_usage_perc") > 0
    server.until(
        lambda: server.metric("kv_cache_usage_perc") == 0 and server.metric("num_requests_running") == 0
    )
    server.until(lambda: server.metric("request_success_total", finished_reason="abort") == 3)
    server.until(lambda: server.requests_logged())
    assert server.requests_logged()[-1]["finish"] == "abort"


def test_a_client_that_hangs_up_while_it_waits_for_the_whole_frees_its_blocks(start_server):
    server = start_server(environment={"step": "0.01"}, max_model_len=4096)
    body = json.dumps({"prompt": "a b c", "max_tokens": 4000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        server.until(lambda: server.metric("num_requests_running") == 1)
    server.until(lambda: server.metric("num_requests_running") == 0)
    server.until(lambda: server.requests_logged())
    assert server.requests_logged()[-1]["status"] == 499


def test_a_client_that_does_not_read_keeps_nobody_waiting(start_server):
    server = start_server(max_model_len=200_000)
    body = json.dumps({"prompt": "a b c", "max_tokens": 150_000, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        server.until(lambda: server.metric("num_requests_running") == 1)
        time.sleep(0.5)
        began = time.monotonic()
        assert server.complete(prompt="x", max_tokens=5).status_code == 200
        assert time.monotonic() - began < 2
    server.until(lambda: server.metric("num_requests_running") == 0, seconds=20)


def stream_to_the_end(server, number, results):
    """Read one stream; note whether it came to its proper end."""
    # A third of the streams have two choices.
    n = 2 if number % 3 == 0 else 1
    body = {
        "prompt": f"number {number} of many",
        "max_tokens": 60,
        "stream": True,
        "ignore_eos": True,
        "n": n,
    }
    lines = []
    try:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as response:
            if response.status_code != 200:
                results[number] = response.status_code
                return
            lines = [line for line in response.iter_lines() if line]
    except httpx.TransportError as error:
        results[number] = repr(error)
        return
    texts = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]
    reasons = [text["finish_reason"] for text in texts if text["finish_reason"] is not None]
    whole = lines[-1] == "data: [DONE]" and reasons == ["length"] * n
    results[number] = "whole" if whole else lines[-1]


def test_sigterm_under_load_breaks_no_stream(start_server):
    server = start_server(environment={"step": "0.03"})
    results = {}
    threads = [threading.Thread(target=stream_to_the_end, args=(server, n, results)) for n in range(24)]
    for thread in threads:
        thread.start()
    server.until(lambda: server.metric("num_requests_running") == 32)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.http.get("/ready").status_code == 503)
    assert server.http.get("/ready").json()["status"] == "draining"
    assert server.http.get("/health").status_code == 200
    late = server.complete(prompt="late")
    assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
    assert int(late.headers["retry-after"]) >= 1
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(24), "whole")
    assert server.process.wait(20) == 0
    assert not server.last_words.exists()


def test_the_drain_time_is_the_limit(start_server):
    server = start_server(environment={"step": "0.05"}, drain_seconds=0.3, max_model_len=10_000)
    body = {"prompt": "a", "max_tokens": 9000, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"
    assert server.process.wait(20) == 0


def test_a_second_signal_ends_at_once(start_server):
    server = start_server(environment={"step": "0.05"}, max_model_len=10_000)
    body = {"prompt": "a", "max_tokens": 9000, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()  # kept: the stream is closed with its iterator
        next(lines)
        server.process.send_signal(signal.SIGINT)
        server.until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 130


def test_no_core_is_left_behind(start_server):
    server = start_server()
    children = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    pids = [int(pid) for pid in Path(children).read_text().split()]
    assert pids
    server.process.kill()
    server.process.wait()

    def gone(pid):
        try:
            return " Z " in Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True

    deadline = time.monotonic() + 5
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidArgument, match="choose another --port"):
            _listen("127.0.0.1", port)


def test_the_http_process_holds_no_torch(start_server):
    server = start_server()
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "tokenizers" in mapped
    assert "libtorch" not in mapped
