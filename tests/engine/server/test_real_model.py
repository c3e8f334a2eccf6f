"""The whole engine: the real command line, the real core, SmolLM2 from the model package."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.messages import NewRequest
from slipway_engine.sampling import SamplingParams
from slipway_engine.tokenizer.load import load_tokenizer

PROMPTS = ("The capital of France is", "def fibonacci(n):", "Water boils at")
LIMITS = {"max_model_len": 512, "kv_cache_bytes": 64 << 20, "max_num_seqs": 16}


@pytest.fixture(scope="module")
def expected(model):
    """Greedy continuations by the core itself, in this process, one at a time."""
    core, tokenizer = EngineCore(EngineConfig(model, **LIMITS)), load_tokenizer(model)
    texts = {}
    for prompt in PROMPTS:
        sampling = SamplingParams(max_tokens=12, temperature=0)
        core.add_request(NewRequest(prompt, tuple(tokenizer.encode(prompt)), sampling, time.monotonic()))
        tokens, finish = [], None
        while core.has_work():
            for output in core.step().outputs:
                tokens += output.new_token_ids
                finish = output.finish_reason
        texts[prompt] = (tokenizer.decode(tokens[:-1] if finish == "stop" else tokens), finish)
    core.check_idle()
    return texts


@pytest.fixture(scope="module")
def real(model, start_process, tmp_path_factory):
    argv = [
        sys.executable,
        "-m",
        "slipway_engine",
        "serve",
        str(model),
        "--served-model-name",
        "smollm2",
        "toy",
    ]
    argv += ["--enable-profiling", "--profile-dir", str(tmp_path_factory.mktemp("profiles"))]
    argv += ["--max-model-len", "512", "--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "16"]
    return start_process(argv).wait()


def test_greedy_text_over_http_is_the_cores(real, expected):
    for prompt, (text, finish) in expected.items():
        choice = real.complete(prompt=prompt, max_tokens=12, temperature=0).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text, finish)


def test_greedy_text_is_the_same_when_streamed_side_by_side(real, expected):
    results = {}

    def stream(prompt):
        body = {"model": "toy", "prompt": prompt, "max_tokens": 12, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{real.url}/v1/completions", json=body, timeout=60) as response:
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        assert lines[-1] == "[DONE]"
        results[prompt] = "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])

    threads = [threading.Thread(target=stream, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {prompt: text for prompt, (text, _) in expected.items()}


def test_a_chat_through_the_official_client(real):
    with openai.OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        stream = client.chat.completions.create(
            model="smollm2",
            messages=messages,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        *chunks, last = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert "Paris" in text
        assert last.usage.completion_tokens <= 24
        again = client.chat.completions.create(
            model="smollm2", messages=messages, max_tokens=24, temperature=0
        )
        assert again.choices[0].message.content == text
        assert again.usage.prompt_tokens_details.cached_tokens > 0


def test_a_seed_makes_sampling_repeatable_and_n_answers_differ(real):
    fields = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 1.5, "seed": 11, "n": 3}
    first, second = (real.complete(**fields).json()["choices"] for _ in range(2))
    texts = [choice["text"] for choice in first]
    assert texts == [choice["text"] for choice in second]
    assert len(set(texts)) == 3


def test_more_answers_than_are_wanted_are_ranked(real):
    fields = {"prompt": "Once upon a time", "max_tokens": 6, "temperature": 1.5, "seed": 11}
    three = real.complete(**fields, n=3, logprobs=0).json()["choices"]
    best = real.complete(**fields, n=1, best_of=3, logprobs=0).json()["choices"]
    scores = [sum(choice["logprobs"]["token_logprobs"]) for choice in three]
    assert [choice["text"] for choice in best] == [three[scores.index(max(scores))]["text"]]


def test_beams_are_at_least_as_likely_as_greedy_text(real):
    fields = {"prompt": "The meaning of life is", "max_tokens": 6, "ignore_eos": True}
    greedy = real.complete(**fields, temperature=0).json()["choices"][0]["text"]
    beams = real.complete(**fields, use_beam_search=True, n=3).json()["choices"]
    assert len({choice["text"] for choice in beams}) == 3

    def likelihood(text):
        scored = real.complete(prompt=fields["prompt"] + text, echo=True, logprobs=0, max_tokens=0).json()
        return sum(scored["choices"][0]["logprobs"]["token_logprobs"][1:])

    assert likelihood(beams[0]["text"]) >= likelihood(greedy) - 1e-3


def test_scores_of_a_prompt_are_those_of_its_generation(real):
    prompt = "The capital of France is"
    answer = real.complete(prompt=prompt, max_tokens=2, temperature=0, logprobs=2).json()["choices"][0]
    scored = real.complete(prompt=prompt + answer["text"], echo=True, logprobs=2, max_tokens=0).json()[
        "choices"
    ][0]
    new = answer["logprobs"]
    assert scored["logprobs"]["tokens"][-2:] == new["tokens"]
    assert scored["logprobs"]["token_logprobs"][-2:] == pytest.approx(new["token_logprobs"], abs=1e-3)
    assert scored["logprobs"]["token_logprobs"][0] is None
    assert scored["text"] == prompt + answer["text"]


def test_a_deadline_frees_the_real_cores_blocks(real):
    answer = real.complete(prompt="Count:", max_tokens=500, ignore_eos=True, n=4, timeout=0.3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    real.until(lambda: real.metric("kv_cache_usage_perc") == 0)


def test_a_model_without_tools_or_embeddings_says_so(real):
    call = {"type": "function", "function": {"name": "f"}}
    assert real.chat(tools=[call]).json()["error"]["code"] == "no_tools"
    answer = real.http.post("/v1/embeddings", json={"input": "x"})
    assert answer.json()["error"]["code"] == "no_embedding_model"


def test_a_trace_of_some_steps_is_written(real):
    nothing = real.http.post("/debug/profile", json={"steps": 2, "seconds": 0.2})
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "not_profiled")
    asked = threading.Thread(
        target=real.complete, kwargs={"prompt": "Count:", "max_tokens": 200, "ignore_eos": True}
    )
    asked.start()
    traced = real.http.post("/debug/profile", json={"steps": 3}).json()
    assert traced["steps"] == 3
    assert json.loads(Path(traced["file"]).read_text())["traceEvents"]
    asked.join()
    assert real.http.post("/debug/profile", json={"steps": 1000}).status_code == 400
    assert real.http.get("/health").status_code == 200


def test_logprobs_of_the_real_model_are_ordered(real):
    choice = real.complete(prompt="The capital of France is", max_tokens=2, temperature=0, logprobs=3).json()
    logprobs = choice["choices"][0]["logprobs"]
    best = [max(top.values()) for top in logprobs["top_logprobs"]]
    assert logprobs["token_logprobs"] == best
    assert all(value <= 0 for value in best)


def test_a_stop_string_ends_the_real_model(real, expected):
    text, _ = expected["The capital of France is"]
    stop = text[5:7]
    answer = real.complete(prompt="The capital of France is", max_tokens=12, temperature=0, stop=stop).json()
    assert answer["choices"][0]["text"] == text[: text.index(stop)]
    assert answer["choices"][0]["stop_reason"] == stop


def test_a_client_that_hangs_up_frees_the_real_cores_blocks(real):
    body = {"prompt": "Tell a long story.", "max_tokens": 400, "ignore_eos": True, "stream": True, "n": 2}
    with real.http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()  # kept: the stream is closed with its iterator
        next(lines)
        real.until(lambda: real.metric("kv_cache_usage_perc") > 0)
    real.until(lambda: real.metric("kv_cache_usage_perc") == 0, seconds=20)
    assert real.metric("num_requests_running") == 0
    assert real.http.get("/health").status_code == 200


def test_over_long_prompts_and_the_limit_of_the_real_model(real):
    answer = real.complete(prompt="word " * 600)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert real.http.get("/v1/models").json()["data"][0]["max_model_len"] == 512


def test_metrics_carry_the_names_that_dashboards_know(real):
    text = real.http.get("/metrics").text
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total",
        "prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total", "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket", "request_queue_time_seconds_bucket",
        "request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket",
    ):  # fmt: skip
        assert f"slipway:{name}{{" in text, name
    assert 'model_name="smollm2"' in text
    assert real.metric("generation_tokens_total") > 0


def test_the_bench_command_measures_it(real):
    argv = [sys.executable, "-m", "slipway_engine", "bench", "--url", real.url, "--requests", "4", "--json"]
    done = subprocess.run(
        [*argv, "--concurrency", "2", "--input-len", "8", "--output-len", "4"],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)
    assert (figures["requests"], figures["output_tokens"]) == (4, 16)
    assert figures["ttft_ms_p50"] > 0


def test_the_real_server_drains_and_leaves_with_zero(real):
    """The last test of the module: it ends the server."""
    body = {"prompt": "Count:", "max_tokens": 30, "ignore_eos": True, "temperature": 0, "stream": True}
    with real.http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        real.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert real.process.wait(30) == 0
