"""Every record survives the line, and nothing else is built from it."""

from dataclasses import fields
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_engine.config import EngineConfig
from slipway_engine.core import messages as m
from slipway_engine.errors import RequestError
from slipway_engine.sampling import SamplingParams

EXAMPLES = [
    m.Start(EngineConfig(Path("/models/x.gguf"), max_model_len=12, prefix_caching=False)),
    m.NewRequest(
        "a", (1, 2), SamplingParams(logit_bias={3: -1.5}, stop_token_ids=(7,), seed=5), 1.5, 2, "salt", 3
    ),
    m.NewRequest("e", (1,), SamplingParams(n=2, best_of=3), 1.5, deadline=7.5, pooling="mean"),
    m.NewRequest("s", (1, 2), SamplingParams(max_tokens=0), 1.5, prompt_logprobs=0),
    m.Abort(("a", "b"), (("c", 3),)),
    m.Profile("/tmp/trace.json", 20),
    m.Profiled("/tmp/trace.json", 20),
    m.Profiled("/tmp/trace.json", 0, "No step was done."),
    m.Shutdown(),
    m.StepOutput(
        (
            m.RequestOutput("a", (1,), (m.TokenLogprob(1, -0.5, ((1, -0.5), (2, -2.0))),), cached_tokens=4),
            m.RequestOutput(
                "b",
                finish_reason="error",
                error="no",
                error_code="queue_full",
                error_status=429,
                retry_after=2.5,
            ),
            m.RequestOutput("c", finish_reason="stop", index=4, embedding=(0.5, -1.0)),
        ),
        m.CoreStats(1, 2, 3, step_seconds=0.25),
    ),
    m.Ready(8192, 49152, 100, 16, 8, "float32", "cpu", (2,), {"weights": 0.5}),
    m.Failed("DoesNotFit", "too large"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_line(message):
    assert m.decode(m.encode(message)) == message


def test_a_request_is_checked_on_both_sides_of_the_line():
    with pytest.raises(RequestError, match="max_tokens is 0"):
        m.NewRequest("a", (1,), SamplingParams(max_tokens=0), 0.0)
    with pytest.raises(RequestError, match="prompt_logprobs is 21"):
        m.NewRequest("a", (1,), SamplingParams(), 0.0, prompt_logprobs=21)
    with pytest.raises(RequestError, match="embedding"):
        m.NewRequest("a", (1,), SamplingParams(), 0.0, prompt_logprobs=1, pooling="last")


def test_every_kind_of_message_has_an_example():
    assert {type(message) for message in EXAMPLES} == set(m._MESSAGES)


@pytest.mark.parametrize(
    "data",
    [["Popen", []], ["Failed", ["one"]], ["Failed", ["a", "b", "c"]], ["StepOutput", [1, 2]], 3, [], None],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError):
        m.decode(msgpack.packb(data))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_as_a_value_error_only(data):
    with pytest.raises(ValueError):
        m.decode(data)


def test_fields_travel_in_their_order():
    request = EXAMPLES[1]
    _, values = msgpack.unpackb(m.encode(request), strict_map_key=False)
    assert len(values) == len(fields(request))
