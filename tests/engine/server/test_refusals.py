"""What cannot be served is refused: OpenAI's shape, the right status, the field, the limit, and a way out."""

import json
import socket
import time

import pytest


def refused(response, status, *, code=None, param=None):
    """Return the message of a refusal of this status."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    assert error["message"].endswith((".", "]"))
    return error["message"]


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[1]", b"null", b"\xff", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}']
)
def test_malformed_json_is_400(server, body):
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        refused(server.http.post(path, content=body), 400, code="invalid_json")


def test_json_nested_without_end_is_400(server):
    deep = b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    refused(server.http.post("/v1/completions", content=deep), 400)


def test_an_unknown_model_is_404_and_the_served_ones_are_named(server):
    message = refused(server.complete(model="gpt-7", prompt="x"), 404, code="model_not_found", param="model")
    assert "toy, toy-alias" in message
    refused(server.http.get("/v1/models/gpt-7"), 404, code="model_not_found")


def test_an_over_long_prompt_is_400_and_names_the_limit(server):
    message = refused(
        server.complete(prompt="word " * 400), 400, code="context_length_exceeded", param="prompt"
    )
    assert "256" in message
    message = refused(server.chat("word " * 400), 400, code="context_length_exceeded", param="messages")
    assert "256" in message


def test_a_text_that_must_be_too_long_is_refused_without_being_tokenized(server):
    began = time.monotonic()
    message = refused(server.complete(prompt="x" * 900_000), 400, code="context_length_exceeded")
    assert "more than 256" in message
    assert time.monotonic() - began < 1


def test_prompt_and_answer_together_have_the_limit(server):
    message = refused(
        server.complete(prompt="one two", max_tokens=255),
        400,
        code="context_length_exceeded",
        param="max_tokens",
    )
    assert "lower max_tokens to 254" in message
    assert server.complete(prompt="one two", max_tokens=254).status_code == 200
    message = refused(server.chat(max_completion_tokens=999), 400, param="max_completion_tokens")
    assert "256" in message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("max_tokens", -8, "max_tokens is -8; it must be at least 0"),
        ("max_tokens", 0, "at least 1"),
        ("max_tokens", 10**30, "at most"),
        ("max_tokens", "8", "max_tokens"),
        ("temperature", -1, "temperature is -1.0; it must be at least 0"),
        ("temperature", 1e9, "at most 100"),
        ("top_p", 0, "greater than 0"),
        ("top_p", 1.5, "at most 1"),
        ("top_k", -2, "at least -1"),
        ("min_p", 2, "at most 1"),
        ("n", 0, "at least 1"),
        ("n", 129, "at most 128"),
        ("presence_penalty", 3, "at most 2"),
        ("frequency_penalty", -3, "at least -2"),
        ("repetition_penalty", 0, "greater than 0"),
        ("seed", 2**70, "seed"),
        ("logprobs", 21, "at most 20"),
        ("min_tokens", 99, "min_tokens is 99"),
        ("logit_bias", {"x": 1}, "keys are token ids"),
        ("logit_bias", {"99999": 1}, "0 to 49151"),
        ("logit_bias", {"5": 101}, "at most 100"),
        ("stop_token_ids", [49152], "0 to 49151"),
        ("stop", ["a"] * 17, "at most 16"),
        ("stop", "x" * 600, "stop"),
        ("stream_options", {"include_usage": True}, "stream: true"),
        ("prompt", "", "empty"),
        ("prompt", [], "prompt must be"),
        ("prompt", [1, "a"], "prompt must be"),
        ("prompt", [[1], []], "prompt must be"),
        ("prompt", [1, True], "prompt must be"),
        ("prompt", {"a": 1}, "prompt must be"),
        ("prompt", [99999], "0 to 49151"),
        ("prompt", [-1], "0 to 49151"),
        ("prompt", [10**40], "0 to 49151"),
        ("prompt", ["a"] * 129, "129 prompts"),
        ("model", 7, "model"),
        ("unheard_of", 1, "unheard_of"),
    ],
)
def test_a_value_out_of_range_names_its_field(server, field, value, says):
    message = refused(server.complete(**({"prompt": "x", "max_tokens": 4} | {field: value})), 400)
    assert says in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("chat_template", "{{ 1 }}"),
        ("reasoning_effort", "low"),
        ("audio", {"voice": "x"}),
        ("suffix", "end"),
        ("dimensions", 64),
        ("guided_json", {"type": "object"}),
        ("store", True),
        ("service_tier", "priority"),
    ],
)
def test_what_is_not_supported_is_refused_not_ignored(server, field, value):
    for answer in (server.chat(**{field: value}), server.complete(prompt="x", **{field: value})):
        message = refused(answer, 400)
        assert field in message or "tools" in message


@pytest.mark.parametrize(
    "field",
    [
        {"tools": []},
        {"tools": None, "tool_choice": "auto", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}},
        {"echo": False, "suffix": None, "best_of": 1},
        {"user": "someone", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"temperature": None, "stop": None, "logit_bias": None, "seed": None, "n": None, "stream": None},
        {"stop": ""},
        {"stop": []},
    ],
)
def test_a_field_that_asks_for_nothing_is_no_error(server, field):
    assert server.complete(prompt="x", max_tokens=1, **field).status_code == 200


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages"),
        ("hello", "messages"),
        ([{"role": "robot", "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([{"role": "user", "content": []}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "image_url"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "chat template"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "tool_calls"),
    ],
)
def test_messages_that_cannot_be_read(server, messages, says):
    answer = server.http.post("/v1/chat/completions", json={"model": "toy", "messages": messages})
    assert says in refused(answer, 400)


def test_top_logprobs_need_logprobs(server):
    refused(server.chat(top_logprobs=3), 400, param="top_logprobs")


def test_unknown_paths_and_methods_have_the_same_shape(server):
    refused(server.http.get("/v1/nothing"), 404)
    refused(server.http.get("/v1/completions"), 405)


def test_a_body_too_large_is_413_whether_announced_or_not(server):
    big = b'{"prompt": "' + b"x" * (1 << 20) + b'"}'
    refused(server.http.post("/v1/completions", content=big), 413, code="body_too_large")

    def pieces():
        for start in range(0, len(big), 1 << 16):
            yield big[start : start + (1 << 16)]

    refused(server.http.post("/v1/completions", content=pieces()), 413, code="body_too_large")


def test_a_huge_announced_body_is_refused_before_it_is_sent(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_that_never_comes_is_408(start_server):
    server = start_server(body_seconds=0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"pro')
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_full_queue_is_429_with_retry_after(start_server):
    server = start_server(environment={"step": "0.05"}, max_num_seqs=1, max_waiting=1)
    with server.http.stream(
        "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 200, "stream": True}
    ) as a:
        assert a.status_code == 200
        message = refused(server.complete(prompt=["b"] * 2, max_tokens=1), 429, code="queue_full")
        assert "try again" in message
        answer = server.complete(prompt=["b"] * 2, max_tokens=1)
        # The core's own estimate, in whole seconds.
        assert answer.headers["retry-after"] == "7"
    assert server.metric("request_refused_total", status="429") == 2
    # The client has left, so there is room again.
    server.until(lambda: server.complete(prompt="b", max_tokens=1).status_code == 200)


def test_errors_are_json_of_one_kind(server):
    answer = server.complete(prompt="x", max_tokens=-1)
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.content)["error"]["type"] == "invalid_request_error"
