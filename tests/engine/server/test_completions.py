"""/v1/completions over a real server and a real core process; the toy core repeats the prompt's tokens."""

import json

import pytest


def events(response):
    """Return the JSON of a stream's events; the last must be [DONE]."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_text_is_continued_and_counted(server):
    answer = server.complete(prompt="one two three four", max_tokens=6).json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "toy"
    assert answer["choices"] == [
        {
            "index": 0,
            "text": "one two three fourone two",
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]
    usage = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    assert answer["usage"] == usage | {"prompt_tokens_details": {"cached_tokens": 3}}


def test_token_ids_are_taken_as_they_are(server):
    ids = server.http.post("/tokenize", json={"prompt": "one two three"}).json()["tokens"]
    answer = server.complete(prompt=ids, max_tokens=3).json()
    assert answer["choices"][0]["text"] == "one two three"


@pytest.mark.parametrize("as_ids", [False, True])
def test_several_prompts_and_several_answers_are_numbered_prompt_by_prompt(server, as_ids):
    prompts = ["red", "green", "blue"]
    if as_ids:
        prompts = [server.http.post("/tokenize", json={"prompt": p}).json()["tokens"] for p in prompts]
    answer = server.complete(prompt=prompts, n=2, max_tokens=1).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert [choice["text"] for choice in answer["choices"]] == [
        "red",
        "red",
        "green",
        "green",
        "blue",
        "blue",
    ]
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["prompt_tokens"] == 3


def test_a_stream_brings_the_same_text_in_pieces(server):
    response = server.complete(prompt="one two three", max_tokens=5, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    assert len(chunks) >= 5
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two threeone two"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [
        "length"
    ]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_comes_last_in_a_stream_where_it_is_asked_for(server):
    response = server.complete(
        prompt="one", max_tokens=2, stream=True, stream_options={"include_usage": True}
    )
    *others, last = events(response)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert all(chunk["usage"] is None for chunk in others)


def test_a_stop_string_ends_the_text_before_it_and_the_count_at_it(server):
    answer = server.complete(prompt="one two three four five", max_tokens=50, stop=["three f"]).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("one two ", "stop", "three f")
    assert answer["usage"]["completion_tokens"] == 4


def test_a_stop_string_can_be_kept(server):
    fields = {"stop": "three", "include_stop_str_in_output": True}
    answer = server.complete(prompt="one two three four", max_tokens=50, **fields).json()
    assert answer["choices"][0]["text"] == "one two three"


def test_no_piece_of_a_stop_string_is_streamed(server):
    response = server.complete(prompt="one two three four", max_tokens=50, stop=" three four", stream=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in events(response)) == "one two"


def test_the_beginning_of_a_stop_string_comes_out_when_nothing_follows(server):
    answer = server.complete(prompt="one two three", max_tokens=3, stop=" three blind mice").json()
    assert answer["choices"][0]["text"] == "one two three"


def test_a_stop_token_ends_a_sequence_and_is_no_part_of_the_text(server):
    ids = server.http.post("/tokenize", json={"prompt": "one two three"}).json()["tokens"]
    answer = server.complete(prompt="one two three", max_tokens=9, stop_token_ids=[ids[2]]).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("one two", "stop", ids[2])
    assert answer["usage"]["completion_tokens"] == 3


def test_the_end_of_text_token_ends_a_sequence_unless_it_is_ignored(server):
    prompt = "one two<|im_end|>three"
    stopped = server.complete(prompt=prompt, max_tokens=6).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"], stopped["stop_reason"]) == ("one two", "stop", None)
    ignored = server.complete(prompt=prompt, max_tokens=6, ignore_eos=True).json()["choices"][0]
    assert ignored["text"] == "one twothreeone two"
    shown = server.complete(prompt=prompt, max_tokens=6, ignore_eos=True, skip_special_tokens=False).json()
    assert shown["choices"][0]["text"] == "one two<|im_end|>threeone two"


def test_min_tokens_holds_back_stop_strings_and_the_end_of_text(server):
    answer = server.complete(prompt="one two three", max_tokens=9, min_tokens=4, stop=" two").json()
    assert answer["choices"][0]["text"] == "one two threeone"


def test_logprobs_line_up_with_the_text(server):
    answer = server.complete(prompt="one two three", max_tokens=3, logprobs=2).json()
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["one", " two", " three"]
    assert logprobs["text_offset"] == [0, 3, 7]
    assert logprobs["token_logprobs"] == [-0.5] * 3
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])


def test_logprobs_in_a_stream_cover_every_token_once(server):
    chunks = events(server.complete(prompt="one two three", max_tokens=4, logprobs=0, stream=True))
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [token for part in logprobs for token in part["tokens"]] == ["one", " two", " three", "one"]
    assert [offset for part in logprobs for offset in part["text_offset"]] == [0, 3, 7, 13]


def test_a_character_is_never_cut_in_two(server):
    text = "日本語 🙂🏽 naïve"
    chunks = events(server.complete(prompt=text, max_tokens=30, stream=True))
    assert all("\ufffd" not in chunk["choices"][0]["text"] for chunk in chunks[:-1])
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks).startswith(text)


def test_the_other_served_name_works_too(server):
    assert server.complete(model="toy-alias", prompt="one", max_tokens=1).json()["model"] == "toy-alias"
    assert [card["id"] for card in server.http.get("/v1/models").json()["data"]] == ["toy", "toy-alias"]
    assert server.http.get("/v1/models/toy-alias").json()["id"] == "toy-alias"


def test_the_description_of_the_api_is_whole(server):
    text = server.http.get("/openapi.json").text
    assert "max_tokens" in text
    assert "stream_options" in text
    assert '"$defs"' not in text


def test_sixteen_tokens_are_the_default(server):
    assert server.complete(prompt="one two").json()["usage"]["completion_tokens"] == 16


def test_the_request_id_of_the_caller_is_kept(server):
    fields = {"model": "toy", "prompt": "one", "max_tokens": 1}
    given = server.http.post("/v1/completions", json=fields, headers={"X-Request-Id": "trace-7"})
    assert given.headers["x-request-id"] == "trace-7"
    odd = server.http.post("/v1/completions", json=fields, headers={"X-Request-Id": "no {good}"})
    assert odd.headers["x-request-id"] not in ("", "no {good}")
    server.until(lambda: any(line["request_id"] == "trace-7" for line in server.requests_logged()))


def test_logs_never_hold_a_prompt_or_an_answer(server):
    server.complete(prompt="zanzibar quokka", max_tokens=4)
    server.chat("zanzibar quokka", max_tokens=4)
    server.complete(prompt="zanzibar quokka", max_tokens=-4)
    log = server.log()
    assert "zanzibar" not in log
    assert "quokka" not in log


def test_tokenize_and_detokenize_are_each_others_inverse(server):
    answer = server.http.post("/tokenize", json={"prompt": "Hello, 2024!", "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert "".join(answer["token_strs"]) == "Hello, 2024!"
    assert server.http.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {
        "prompt": "Hello, 2024!"
    }
