"""Random bodies: each is answered with a 2xx or a 4xx of OpenAI's shape, and the server stays as it was."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slipway_engine.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)

FIELDS = sorted(
    {
        name
        for kind in (ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest)
        for name in kind.model_fields
    }
    | {"functions", "suffix", "dimensions", "response_format", "nonsense", ""}
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 40)
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.floats(0, 2)
    | st.sampled_from(["", "toy", "user", "text", "a", "none", "auto"])
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(["add", "weather"]) | values
calls = st.lists(
    st.fixed_dictionaries(
        {"id": st.just("call_1") | values},
        optional={
            "type": st.just("function") | values,
            "function": st.fixed_dictionaries(
                {"name": names}, optional={"arguments": st.sampled_from(["{}", "", "[", '{"a": 1}']) | values}
            ),
        },
    ),
    max_size=2,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "developer", "tool"]) | values},
        optional={
            "content": st.text(max_size=40) | values,
            "name": values,
            "tool_calls": calls | values,
            "tool_call_id": values,
        },
    ),
    max_size=4,
)
tools = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function") | values},
        optional={"function": st.fixed_dictionaries({"name": names}, optional={"parameters": values})},
    ),
    max_size=2,
)
# Half of the time a request that could be served, with a few fields of any kind in it.
likely = st.fixed_dictionaries(
    {"model": st.just("toy")},
    optional={
        "prompt": st.text(min_size=1, max_size=30) | values,
        "messages": messages,
        "input": st.text(min_size=1, max_size=30) | values,
        "max_tokens": st.integers(0, 5),
        "tools": tools | values,
        "echo": st.booleans(),
        "n": st.integers(1, 3),
        "best_of": st.integers(1, 4),
        "logprobs": st.integers(0, 3) | st.booleans(),
        "stream": st.booleans(),
    },
)
bodies = st.tuples(likely, st.dictionaries(st.sampled_from(FIELDS), values, max_size=3)).map(
    lambda parts: parts[0] | parts[1]
) | st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)
paths = st.sampled_from(
    ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"]
)
TEMPLATE = (
    "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ m.tool_calls }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    template = tmp_path_factory.mktemp("template") / "tools.jinja"
    template.write_text(TEMPLATE)
    running = start_server(chat_template=template, max_model_len=1024)
    yield running
    running.close()


def check(response):
    assert 200 <= response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert len(response.json()["error"]["message"]) < 4000


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=paths, body=bodies)
@example(path="/v1/completions", body={"model": "toy", "prompt": "x", "max_tokens": 2})
def test_random_bodies_never_break_the_server(server, path, body):
    check(server.http.post(path, content=json.dumps(body).encode()))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=paths, body=st.binary(max_size=200))
def test_random_bytes_never_break_the_server(server, path, body):
    check(server.http.post(path, content=body))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=paths,
    field=st.sampled_from(FIELDS),
    number=st.sampled_from(
        ["1e400", "-1e400", "9" * 400, "-" + "9" * 5000, "1e-400", "0.1e1", "1" + "0" * 19]
    ),
)
def test_numbers_beyond_every_type_are_no_crash(server, path, field, number):
    common = {"model": "toy", "prompt": "x", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
    common.pop("messages" if path.endswith("/v1/completions") else "prompt")
    common.pop(field, None)
    body = json.dumps(common)[:-1] + f", {json.dumps(field)}: {number}}}"
    check(server.http.post(path, content=body.encode()))


def test_nothing_is_left_running(server):
    server.until(lambda: server.metric("num_requests_running") == 0)
    assert server.metric("kv_cache_usage_perc") == 0
    assert server.http.get("/health").status_code == 200
    assert "Traceback" not in server.log()
    statuses = {line["status"] for line in server.requests_logged()}
    assert {200, 400} <= statuses, "the fuzz reached only one side of the server"
