"""The prompt's own log-probabilities: as transformers computes them, in pieces, whatever else runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway_engine.core.scheduler import PROMPT_ROWS
from slipway_engine.errors import RequestError

Drive = Callable[..., Any]
PROMPT = tuple(range(3, 90))
BLOCK_BYTES = 4 * 2 * (2 * 16) * 4


def _reference(tiny: Path, prompt: tuple[int, ...]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    with torch.no_grad():
        return model(torch.tensor([prompt])).logits[0].log_softmax(dim=-1)


def test_equal_to_teacher_forcing(drive: Drive, tiny: Path) -> None:
    expected = _reference(tiny, PROMPT)
    result = drive(max_batch_tokens=64).one(PROMPT, prompt_logprobs=3, max_tokens=2)
    assert [entry.token_id for entry in result.prompt_logprobs] == list(PROMPT[1:])
    own = torch.tensor([entry.logprob for entry in result.prompt_logprobs])
    torch.testing.assert_close(
        own, expected[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0], atol=1e-4, rtol=0
    )
    for entry, row in zip(result.prompt_logprobs, expected, strict=False):
        values, ids = row.topk(3)
        assert [token for token, _ in entry.top] == ids.tolist()
        torch.testing.assert_close(torch.tensor([one for _, one in entry.top]), values, atol=1e-4, rtol=0)


def test_the_pieces_are_bounded_and_come_before_the_first_token(drive: Drive) -> None:
    outputs = drive(max_batch_tokens=64).one(PROMPT, prompt_logprobs=0, max_tokens=3).outputs
    sizes = [len(output.prompt_logprobs) for output in outputs]
    assert sum(sizes) == len(PROMPT) - 1
    assert max(sizes) <= PROMPT_ROWS
    assert not any(output.new_token_ids for output in outputs if output.prompt_logprobs)
    assert [len(output.new_token_ids) for output in outputs[-3:]] == [1, 1, 1]


def test_a_cached_prompt_is_scored_as_one_that_is_not(drive: Drive) -> None:
    driver = drive()
    first = driver.one(PROMPT, prompt_logprobs=1, max_tokens=4)
    second = driver.one(PROMPT, prompt_logprobs=1, max_tokens=4)
    assert (second.prompt_logprobs, second.tokens) == (first.prompt_logprobs, first.tokens)
    assert driver.one(PROMPT, max_tokens=4).cached_tokens > 80


def test_alone_with_max_tokens_0(drive: Drive) -> None:
    driver = drive()
    result = driver.one(PROMPT, prompt_logprobs=0, max_tokens=0)
    assert (result.tokens, result.finish_reason) == ([], "length")
    assert result.prompt_logprobs == driver.one(PROMPT, prompt_logprobs=0, max_tokens=1).prompt_logprobs
    assert driver.one((7,), prompt_logprobs=0, max_tokens=0).finish_reason == "length"


def test_a_prompt_of_the_models_length_can_be_scored(drive: Drive) -> None:
    driver = drive(max_model_len=20)
    assert len(driver.one(range(20), prompt_logprobs=0, max_tokens=0).prompt_logprobs) == 19
    with pytest.raises(RequestError, match="at most 20"):
        driver.send(range(21), prompt_logprobs=0, max_tokens=0)


def test_with_choices_and_beams(drive: Drive) -> None:
    driver = drive()
    expected = driver.one(PROMPT, prompt_logprobs=0, max_tokens=0).prompt_logprobs
    sampled = driver.one(PROMPT, prompt_logprobs=0, n=3, temperature=1.0, max_tokens=5)
    searched = driver.one(PROMPT, prompt_logprobs=0, beam_width=3, max_tokens=5)
    assert sampled.prompt_logprobs == searched.prompt_logprobs == expected


def test_preempted_while_it_is_scored(drive: Drive) -> None:
    expected = drive().one(PROMPT, prompt_logprobs=2, max_tokens=4)
    driver = drive(kv_cache_bytes=27 * BLOCK_BYTES, max_batch_tokens=8)
    first = driver.send(range(100, 110), max_tokens=60)
    second = driver.send(PROMPT, prompt_logprobs=2, max_tokens=4)
    results = driver.finish()
    assert driver.core.stats().num_preemptions > 0
    assert results[first].finish_reason == "length"
    found = results[second]
    assert [entry.token_id for entry in found.prompt_logprobs] == list(PROMPT[1:])
    own = torch.tensor([entry.logprob for entry in found.prompt_logprobs])
    torch.testing.assert_close(
        own, torch.tensor([entry.logprob for entry in expected.prompt_logprobs]), atol=1e-5, rtol=0
    )
    assert found.tokens == expected.tokens


def test_several_prompts_at_once_stay_within_the_rows_of_a_step(drive: Drive) -> None:
    driver = drive(max_batch_tokens=200)
    names = [driver.send(PROMPT[at:], prompt_logprobs=0, max_tokens=3) for at in range(4)]
    run, most = driver.core._runner.run, 0

    def watched(plan: Any) -> Any:
        nonlocal most
        rows, logits = run(plan)
        most = max(most, len(logits))
        return rows, logits

    driver.core._runner.run = watched
    results = driver.finish()
    assert most <= PROMPT_ROWS + 4
    for at, name in enumerate(names):
        assert [entry.token_id for entry in results[name].prompt_logprobs] == list(PROMPT[at + 1 :])
