"""Several sequences of one request: one prompt, shared blocks, copies on writing, and each its own tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Drive = Callable[..., Any]
PROMPT = tuple(range(3, 25))  # ends within a block of 4
HOT = {"temperature": 1.0, "seed": 5}
BLOCK_BYTES = 4 * 2 * (2 * 16) * 4  # tokens, layers, key and value elements, bytes


def _tokens(result: Any) -> list[list[int]]:
    return [choice.tokens for choice in result.choices]


def _alone(drive: Drive, prompt: tuple[int, ...] = PROMPT, **sampling: Any) -> list[list[int]]:
    """Return the sequences as they come one after the other, each computing the prompt by itself."""
    driver = drive(max_num_seqs=1, prefix_caching=False)
    tokens = _tokens(driver.one(prompt, **sampling))
    assert driver.core.stats().steps >= sampling["n"] * (sampling["max_tokens"])
    return tokens


def test_choices_differ_and_each_is_what_it_is_alone(drive: Drive) -> None:
    alone = _alone(drive, n=5, max_tokens=12, **HOT)
    driver = drive()
    result = driver.one(PROMPT, n=5, max_tokens=12, **HOT)
    assert _tokens(result) == alone
    assert len({tuple(tokens) for tokens in alone}) == 5
    assert [choice.finish_reason for choice in result.choices] == ["length"] * 5
    assert driver.one(PROMPT, max_tokens=12, **HOT).tokens == alone[0]


def test_the_prompt_is_computed_once_and_its_blocks_are_shared(drive: Drive) -> None:
    driver = drive(max_batch_tokens=32, prefix_caching=False)
    driver.send(PROMPT, n=5, max_tokens=4, **HOT)
    driver.step()
    assert driver.core.stats().kv_blocks_used == 6
    driver.step()  # each but the last writer copies the partial block
    assert driver.core.stats().kv_blocks_used == 6 + 4
    driver.core.check()
    driver.finish()
    assert driver.core.stats().prompt_tokens == len(PROMPT)


def test_a_prompt_that_fills_its_blocks_needs_no_copies(drive: Drive) -> None:
    driver = drive(prefix_caching=False)
    driver.send(range(20), n=3, max_tokens=4, **HOT)
    driver.step()
    assert driver.core.stats().kv_blocks_used == 5
    driver.step()
    assert driver.core.stats().kv_blocks_used == 5 + 3
    driver.finish()


def test_more_choices_than_seats(drive: Drive) -> None:
    alone = _alone(drive, n=7, max_tokens=9, **HOT)
    driver = drive(max_num_seqs=3)
    other = driver.send(range(50, 70), max_tokens=30)
    name = driver.send(PROMPT, n=7, max_tokens=9, **HOT)
    results = driver.finish()
    assert _tokens(results[name]) == alone
    assert results[other].finish_reason == "length"


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_members_are_preempted_and_computed_again_alone(drive: Drive, prefix_caching: bool) -> None:
    alone = _alone(drive, n=6, max_tokens=30, **HOT)
    driver = drive(kv_cache_bytes=22 * BLOCK_BYTES, prefix_caching=prefix_caching)
    name = driver.send(PROMPT, n=6, max_tokens=30, **HOT)
    while driver.core.has_work():
        driver.step()
        driver.core.check()
    driver.core.check_idle()
    assert driver.core.stats().num_preemptions > 2
    assert _tokens(driver.results[name]) == alone


def test_a_prompt_in_chunks_forks_at_its_end(drive: Drive) -> None:
    alone = _alone(drive, n=3, max_tokens=6, **HOT)
    driver = drive(max_batch_tokens=8)
    assert _tokens(driver.one(PROMPT, n=3, max_tokens=6, **HOT)) == alone


def test_penalties_are_each_sequences_own(drive: Drive) -> None:
    hot = {**HOT, "frequency_penalty": 1.5, "repetition_penalty": 1.1}
    alone = _alone(drive, n=4, max_tokens=20, **hot)
    assert _tokens(drive().one(PROMPT, n=4, max_tokens=20, **hot)) == alone


def test_figures_come_with_the_first_token_of_choice_0(drive: Drive) -> None:
    driver = drive()
    driver.one(PROMPT, max_tokens=1)
    outputs = driver.one(PROMPT, n=3, max_tokens=3, **HOT).outputs
    assert [(output.index, output.cached_tokens) for output in outputs if output.prefill_seconds] == [(0, 20)]


def test_an_abort_frees_all_choices_at_once(drive: Drive) -> None:
    driver = drive(max_num_seqs=4)
    name = driver.send(PROMPT, n=9, max_tokens=30, **HOT)
    for _ in range(3):
        driver.step()
    driver.core.abort([name])
    assert driver.core.stats().kv_blocks_used == 0
    assert driver.core.stats().num_requests_waiting == 0
    result = driver.finish()[name]
    assert result.outputs[-1].finish_reason == "abort"


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_one_choice_is_stopped_and_the_others_go_on(drive: Drive, steps: int, index: int) -> None:
    alone = _alone(drive, n=4, max_tokens=8, **HOT)
    driver = drive()
    name = driver.send(PROMPT, n=4, max_tokens=8, **HOT)
    for _ in range(steps):
        driver.step()
    driver.core.stop_choices([(name, index), (name, 17), ("unknown", 0)])
    driver.core.check()
    result = driver.finish()[name]
    for at, tokens in enumerate(alone):
        found = result if at == 0 else result.others.get(at)
        if at == index:
            assert found is None or (found.finish_reason is None and found.tokens == tokens[:steps])
        else:
            assert found.tokens == tokens


def test_stopping_every_choice_ends_the_request(drive: Drive) -> None:
    driver = drive()
    name = driver.send(PROMPT, n=2, max_tokens=8, **HOT)
    driver.step()
    driver.core.stop_choices([(name, 0), (name, 1)])
    assert not driver.core.has_work()
    driver.core.check_idle()


def test_best_of_returns_the_most_likely_and_only_at_the_end(drive: Drive) -> None:
    everything = drive().one(PROMPT, n=6, max_tokens=7, logprobs=0, **HOT)
    ranked = sorted(everything.choices, key=lambda choice: -sum(one.logprob for one in choice.logprobs))
    result = drive().one(PROMPT, n=2, best_of=6, max_tokens=7, logprobs=0, **HOT)
    assert [choice.tokens for choice in result.choices] == [choice.tokens for choice in ranked[:2]]
    assert [choice.logprobs for choice in result.choices] == [choice.logprobs for choice in ranked[:2]]
    assert [(output.index, output.finish_reason) for output in result.outputs] == [
        (0, "length"),
        (1, "length"),
    ]
    assert result.outputs[0].prefill_seconds > 0


def test_best_of_keeps_log_probabilities_to_itself_unless_asked(drive: Drive) -> None:
    result = drive().one(PROMPT, best_of=3, max_tokens=7, **HOT)
    assert result.logprobs == []
    assert len(result.outputs) == 1


def test_a_broken_choice_ends_the_request(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drive()
    name = driver.send(PROMPT, n=3, max_tokens=9, **HOT)
    driver.step()
    run = driver.core._runner.run

    def broken(plan: Any) -> Any:
        rows, logits = run(plan)
        logits[1] = float("nan")
        return rows, logits

    monkeypatch.setattr(driver.core._runner, "run", broken)
    result = driver.finish()[name]
    assert result.outputs[-1].finish_reason == "error"
    assert not driver.core.has_work()
