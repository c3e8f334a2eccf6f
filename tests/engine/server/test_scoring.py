"""The prompt's own tokens: echo, log-probabilities of the prompt, and the limits of time and of search."""

import base64
import struct
import time

import openai
import pytest

from .test_completions import events

TEXT = "one two three four five"


@pytest.fixture(scope="module")
def ids(server):
    return server.http.post("/tokenize", json={"prompt": TEXT}).json()["tokens"]


def choice(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def test_echo_puts_the_prompt_in_front(server, ids):
    assert choice(server.complete(prompt=TEXT, echo=True, max_tokens=2))["text"] == TEXT + "one two"
    assert choice(server.complete(prompt=ids, echo=True, max_tokens=2))["text"] == TEXT + "one two"


def test_scoring_needs_no_answer(server, ids):
    """As evaluation harnesses ask: the prompt as ids, echoed, scored, nothing generated."""
    scored = choice(server.complete(prompt=ids, echo=True, logprobs=2, max_tokens=0))
    assert (scored["text"], scored["finish_reason"]) == (TEXT, "length")
    logprobs = scored["logprobs"]
    assert logprobs["tokens"] == ["one", " two", " three", " four", " five"]
    assert logprobs["token_logprobs"] == [None, -0.25, -0.5, -0.75, -1.0]
    assert logprobs["text_offset"] == [0, 3, 7, 13, 18]
    assert logprobs["top_logprobs"][0] is None
    assert all(len(top) == 2 for top in logprobs["top_logprobs"][1:])


def test_echoed_and_new_tokens_are_scored_in_one_list(server):
    scored = choice(server.complete(prompt=TEXT, echo=True, logprobs=1, max_tokens=2))
    assert scored["logprobs"]["tokens"][-2:] == ["one", " two"]
    assert scored["logprobs"]["token_logprobs"][-3:] == [-1.0, -0.5, -0.5]
    assert scored["logprobs"]["text_offset"][-1] == len(TEXT) + 3


def test_a_stream_echoes_once_for_each_choice(server):
    response = server.complete(prompt=TEXT, echo=True, logprobs=0, max_tokens=3, n=2, stream=True)
    texts, tokens = {0: "", 1: ""}, {0: [], 1: []}
    for chunk in events(response):
        (part,) = chunk["choices"]
        texts[part["index"]] += part["text"]
        tokens[part["index"]] += part["logprobs"]["tokens"]
    assert texts == {0: TEXT + "one two three", 1: TEXT + " two three four"}
    assert ["".join(part) for part in tokens.values()] == list(texts.values())


def test_an_echo_without_scores_and_without_an_answer(server):
    echoed = choice(server.complete(prompt=TEXT, echo=True, max_tokens=0))
    assert (echoed["text"], echoed["logprobs"]) == (TEXT, None)


def test_several_prompts_are_echoed_each_with_its_own(server):
    answer = server.complete(prompt=["red", "green blue"], echo=True, logprobs=0, max_tokens=1).json()
    assert [each["text"] for each in answer["choices"]] == ["redred", "green bluegreen"]


def test_prompt_logprobs_have_vllms_shape(server, ids):
    scored = choice(server.complete(prompt=TEXT, prompt_logprobs=2, max_tokens=1))["prompt_logprobs"]
    assert scored[0] is None
    assert len(scored) == len(ids)
    assert scored[1][str(ids[1])] == {"logprob": -0.25, "rank": 1, "decoded_token": " two"}
    chat = server.chat(prompt_logprobs=0, max_tokens=1).json()
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert "prompt_logprobs" not in choice(server.complete(prompt=TEXT, max_tokens=1))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 0, "echo": True, "n": 2}, "leave n out"),
        ({"prompt_logprobs": 1, "stream": True}, "stream"),
        ({"prompt_logprobs": 21}, "at most 20"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 129}, "at most 128"),
        ({"use_beam_search": True}, "beam_width is 1"),
        ({"use_beam_search": True, "beam_width": 17}, "at most 16"),
        ({"use_beam_search": True, "n": 3, "beam_width": 2}, "n is 3"),
        ({"use_beam_search": True, "n": 2, "temperature": 0.5}, "temperature"),
        ({"use_beam_search": True, "n": 2, "logprobs": 1}, "logprobs"),
        ({"beam_width": 4}, "use_beam_search"),
        ({"length_penalty": 1.0}, "use_beam_search"),
        ({"early_stopping": True}, "use_beam_search"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": 1e9}, "at most 86400"),
        ({"prompt": ["a"] * 10, "best_of": 20, "n": 2}, "200 sequences"),
    ],
)
def test_what_does_not_go_together_is_refused(server, fields, says):
    answer = server.complete(**({"prompt": TEXT, "max_tokens": 2} | fields))
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_a_deadline_ends_a_request(start_server):
    server = start_server(environment={"step": "0.05"}, max_model_len=4096)
    began = time.monotonic()
    answer = server.complete(prompt="a", max_tokens=4000, timeout=0.4)
    assert 0.3 < time.monotonic() - began < 3
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    fields = {"prompt": "a", "max_tokens": 4000, "timeout": 60, "stream": True}
    streamed = server.http.post("/v1/completions", json=fields, headers={"X-Request-Timeout": "0.4"})
    assert streamed.status_code == 200
    assert "deadline_exceeded" in streamed.text.split("\n\n")[-2]
    odd = server.http.post("/v1/completions", json=fields, headers={"X-Request-Timeout": "nan"})
    assert "X-Request-Timeout" in odd.json()["error"]["message"]
    server.until(lambda: server.metric("num_requests_running") == 0)
    assert server.metric("request_success_total", finished_reason="error") == 2


def test_an_embedding_needs_an_embedding_model(server):
    answer = server.http.post("/v1/embeddings", json={"model": "toy", "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_embedding_model")


def test_embeddings_through_the_official_client(start_server):
    server = start_server(environment={"pooling": "last"})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        # The client asks for base64 by itself, and for floats where it is told to.
        packed = client.embeddings.create(model="toy", input=["one two", "three"])
        plain = client.embeddings.create(model="toy", input=["one two", "three"], encoding_format="float")
        assert [each.embedding for each in packed.data] == [[2.0, 0.5, -1.0], [1.0, 0.5, -1.0]]
        assert [each.embedding for each in plain.data] == [[2.0, 0.5, -1.0], [1.0, 0.5, -1.0]]
        assert packed.usage.prompt_tokens == packed.usage.total_tokens == 3
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="toy", input="x", dimensions=64)
        with pytest.raises(openai.BadRequestError, match="input must be a text"):
            client.embeddings.create(model="toy", input=[])
        with pytest.raises(openai.BadRequestError, match="embeddings"):
            client.completions.create(model="toy", prompt="x")
    raw = server.http.post("/v1/embeddings", json={"input": "one two", "encoding_format": "base64"}).json()
    assert struct.unpack("<3f", base64.b64decode(raw["data"][0]["embedding"])) == (2.0, 0.5, -1.0)
    server.until(lambda: server.metric("num_requests_running") == 0)
