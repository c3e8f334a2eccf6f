"""The core from outside: how sequences end, what is refused, what is reported, and that nothing leaks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.errors import DoesNotFit, InvalidArgument, ModelNotFound, RequestError

Drive = Callable[..., Any]
PROMPT = (5, 9, 2, 77, 31)


def test_ends_at_max_tokens(drive: Drive) -> None:
    result = drive().one(PROMPT, max_tokens=7)
    assert (len(result.tokens), result.finish_reason, result.stop_reason) == (7, "length", None)


def test_ends_at_a_stop_id_and_names_it(drive: Drive) -> None:
    driver = drive()
    tokens = driver.one(PROMPT, max_tokens=10).tokens
    stop = tokens[4]
    result = driver.one(PROMPT, max_tokens=10, stop_token_ids=(stop,))
    assert result.tokens == tokens[: tokens.index(stop) + 1]
    assert (result.finish_reason, result.stop_reason) == ("stop", stop)


def test_eos_ends_unless_it_is_ignored(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drive()
    tokens = driver.one(PROMPT, max_tokens=10).tokens
    monkeypatch.setattr(driver.core, "_eos", frozenset([tokens[2]]))
    ended = driver.one(PROMPT, max_tokens=10)
    assert (ended.tokens, ended.finish_reason, ended.stop_reason) == (
        tokens[: tokens.index(tokens[2]) + 1], "stop", None,
    )  # fmt: skip
    assert driver.one(PROMPT, max_tokens=10, ignore_eos=True).tokens == tokens
    assert len(driver.one(PROMPT, max_tokens=10, min_tokens=6).tokens) >= 6


def test_ends_at_the_models_length(drive: Drive) -> None:
    driver = drive(max_model_len=20)
    result = driver.one(range(15), max_tokens=100)
    assert (len(result.tokens), result.finish_reason) == (5, "length")


def test_refuses_an_over_long_prompt_by_its_limit(drive: Drive) -> None:
    driver = drive(max_model_len=20)
    with pytest.raises(RequestError, match=r"20 tokens.*max_model_len is 20.*at most 19") as refused:
        driver.send(range(20))
    assert refused.value.code == "context_length_exceeded"
    driver.core.check_idle()


@pytest.mark.parametrize(
    ("prompt", "sampling", "param"),
    [
        ((), {}, "prompt"),
        ((1, 199), {}, "prompt"),
        ((1, -1), {}, "prompt"),
        ((1,), {"stop_token_ids": (500,)}, "stop_token_ids"),
        ((1,), {"logit_bias": {-3: 1.0}}, "logit_bias"),
    ],
)
def test_refuses_what_makes_no_sense(
    drive: Drive, prompt: tuple[int, ...], sampling: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as refused:
        drive().send(prompt, **sampling)
    assert refused.value.param == param


def test_refuses_an_id_in_use(drive: Drive) -> None:
    driver = drive()
    driver.send(PROMPT, name="same")
    with pytest.raises(RequestError, match="same"):
        driver.send(PROMPT, name="same")


def test_refuses_what_the_cache_can_never_hold(drive: Drive) -> None:
    driver = drive(kv_cache_bytes=12 * 4 * 2 * 2 * 16 * 4)
    capacity = driver.core.ready.num_kv_blocks * 4
    assert capacity < 200
    with pytest.raises(RequestError, match=f"which holds {capacity}"):
        driver.send(range(10), max_tokens=capacity)
    fits = driver.one(range(10), max_tokens=capacity - 9)
    assert len(fits.tokens) == capacity - 9


def test_a_full_queue_answers_429(drive: Drive) -> None:
    driver = drive(max_num_seqs=1, max_waiting=1)
    driver.send(PROMPT)
    with pytest.raises(RequestError) as refused:
        driver.send(PROMPT)
    assert refused.value.status == 429
    driver.finish()


def test_abort_frees_at_once_and_is_reported(drive: Drive) -> None:
    driver = drive()
    gone, stays = driver.send(range(40)), driver.send(PROMPT, max_tokens=3)
    driver.step()
    used = driver.core.stats().kv_blocks_used
    driver.core.abort([gone, "unknown"])
    assert driver.core.stats().kv_blocks_used < used
    results = driver.finish()
    assert results[gone].finish_reason == "abort"
    assert results[stays].finish_reason == "length"


def test_an_abort_alone_is_work_to_report(drive: Drive) -> None:
    driver = drive()
    name = driver.send(PROMPT)
    driver.core.abort([name])
    assert driver.core.has_work()
    assert driver.finish()[name].finish_reason == "abort"


def test_prefix_hits_are_reported_and_change_nothing(drive: Drive) -> None:
    driver = drive()
    first = driver.one(range(20), max_tokens=6)
    second = driver.one(range(20), max_tokens=6)
    assert (first.cached_tokens, second.cached_tokens) == (0, 16)
    assert second.tokens == first.tokens
    assert driver.core.stats().prefix_cache_hits == 16


def test_a_conversation_reuses_what_was_generated(drive: Drive) -> None:
    driver = drive()
    first = driver.one(range(10), max_tokens=10)
    second = driver.one([*range(10), *first.tokens, 3, 4], max_tokens=2)
    assert second.cached_tokens == 16


def test_a_seed_gives_the_same_tokens_in_any_batch(drive: Drive) -> None:
    driver = drive()
    alone = driver.one(PROMPT, temperature=1.0, seed=11, max_tokens=12).tokens
    names = [driver.send(PROMPT, temperature=1.0, seed=seed, max_tokens=12) for seed in (3, 11, 12, 11)] + [
        driver.send(range(30), max_tokens=12)
    ]
    results = driver.finish()
    assert results[names[1]].tokens == results[names[3]].tokens == alone
    assert results[names[0]].tokens != alone
    assert results[names[2]].tokens != alone


def test_requests_without_a_seed_differ(drive: Drive) -> None:
    driver = drive()
    outputs = {tuple(driver.one(PROMPT, temperature=1.0, max_tokens=12).tokens) for _ in range(5)}
    assert len(outputs) == 5


def test_log_probabilities_come_with_each_token(drive: Drive) -> None:
    result = drive().one(PROMPT, max_tokens=4, logprobs=2)
    assert len(result.logprobs) == 4
    for token, entry in zip(result.tokens, result.logprobs, strict=True):
        assert entry.token_id == token
        assert entry.top[0] == (token, entry.logprob)
        assert len(entry.top) == 2


def test_timings_come_with_the_first_token_only(drive: Drive) -> None:
    outputs = drive().one(range(70), max_tokens=3).outputs
    assert outputs[0].prefill_seconds > 0
    assert all(output.prefill_seconds == 0 for output in outputs[1:])


def test_counts_tokens_and_steps(drive: Drive) -> None:
    driver = drive()
    driver.one(range(10), max_tokens=5)
    stats = driver.core.stats()
    assert (stats.prompt_tokens, stats.generation_tokens, stats.steps) == (10, 5, 5)
    assert (stats.num_requests_running, stats.num_requests_waiting, stats.kv_blocks_used) == (0, 0, 0)


def test_not_finite_logits_end_one_request_with_a_sentence(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive()
    healthy, name = driver.send(PROMPT, max_tokens=4), driver.send(range(9), max_tokens=4)
    run = driver.core._runner.run

    def broken(plan: Any) -> Any:
        rows, logits = run(plan)
        for at, row in enumerate(rows):
            if row.request.id == name:
                logits[at, 3] = float("nan")
        return rows, logits

    monkeypatch.setattr(driver.core._runner, "run", broken)
    results = driver.finish()
    assert results[name].finish_reason == "error"
    assert "no finite logits" in (results[name].outputs[-1].error or "")
    assert results[healthy].finish_reason == "length"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"block_size": 0}, "block_size"),
        ({"max_num_seqs": 64}, "max_batch_tokens"),
        ({"memory_percent": 101}, "memory_percent"),
        ({"max_model_len": 0}, "max_model_len"),
        ({"dtype": "float8"}, "dtype"),
        ({"dtype": "float16"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"num_threads": -1}, "num_threads"),
    ],
)
def test_refuses_settings_that_cannot_work(drive: Drive, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidArgument, match=word):
        drive(**settings)


def test_refuses_a_cache_without_a_block(drive: Drive) -> None:
    with pytest.raises(DoesNotFit):
        drive(kv_cache_bytes=1)


def test_refuses_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        EngineCore(EngineConfig(tmp_path / "nothing"))


def test_needs_none_of_the_http_side() -> None:
    """The core can be imported and checked where there is only torch, numpy and safetensors."""
    barred = (
        "fastapi", "uvicorn", "starlette", "httpx", "transformers", "tokenizers", "huggingface_hub", "jinja2",
        "prometheus_client", "pydantic", "msgpack", "yaml", "rich", "kopf", "kubernetes",
    )  # fmt: skip
    program = f"""
import sys
class Bar:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {barred!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Bar())
import slipway_engine.core.engine, slipway_engine.loading.checkpoint
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
