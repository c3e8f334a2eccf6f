"""Beam search against transformers' own, and with too little memory against itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Drive = Callable[..., Any]
PROMPT = tuple(range(3, 25))
BLOCK_BYTES = 4 * 2 * (2 * 16) * 4


def _reference(
    tiny: Path, prompt: tuple[int, ...], stops: tuple[int, ...], **settings: Any
) -> list[list[int]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    found = model.generate(
        torch.tensor([prompt]), do_sample=False, eos_token_id=list(stops) or None, pad_token_id=0, **settings
    )
    return [_cut(row[len(prompt) :], stops) for row in found.tolist()]


def _cut(tokens: list[int], stops: tuple[int, ...]) -> list[int]:
    """Without the padding after the token that ended it."""
    ends = [at for at, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens


def _stops(drive: Drive, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """Return tokens that end hypotheses soon and late."""
    driver = drive()
    greedy = driver.one(prompt, max_tokens=12).tokens
    second = driver.one(prompt, max_tokens=1, logprobs=4).logprobs[0].top[2][0]
    return tuple({greedy[6], second})


@pytest.mark.parametrize("width", [2, 4, 16])
@pytest.mark.parametrize(
    ("penalty", "early"), [(1.0, False), (1.0, True), (0.0, False), (2.0, False), (-1.0, False)]
)
@pytest.mark.parametrize("ends", [True, False])
def test_finds_what_transformers_finds(
    drive: Drive, tiny: Path, width: int, penalty: float, early: bool, ends: bool
) -> None:
    for start in (3, 60, 101):
        prompt = tuple(range(start, start + 22))
        stops = _stops(drive, prompt) if ends else ()
        expected = _reference(
            tiny, prompt, stops, num_beams=width, num_return_sequences=width, max_new_tokens=14,
            length_penalty=penalty, early_stopping=early,
        )  # fmt: skip
        driver = drive(max_num_seqs=16)
        result = driver.one(
            prompt, n=width, beam_width=width, max_tokens=14, stop_token_ids=stops, length_penalty=penalty,
            early_stopping=early,
        )  # fmt: skip
        assert [choice.tokens for choice in result.choices] == expected
        assert [choice.finish_reason for choice in result.choices] == [
            "stop" if tokens[-1] in stops else "length" for tokens in expected
        ]


def test_penalties_apply_as_in_transformers(drive: Drive, tiny: Path) -> None:
    expected = _reference(tiny, PROMPT, (), num_beams=4, max_new_tokens=14, repetition_penalty=1.3)
    result = drive().one(PROMPT, beam_width=4, max_tokens=14, repetition_penalty=1.3)
    assert [result.tokens] == expected


@pytest.mark.parametrize("settings", [
    {"max_num_seqs": 2},
    {"kv_cache_bytes": 13 * BLOCK_BYTES},
    {"kv_cache_bytes": 13 * BLOCK_BYTES, "prefix_caching": False},
    {"max_batch_tokens": 8},
])  # fmt: skip
def test_too_little_room_changes_nothing(drive: Drive, settings: dict[str, Any]) -> None:
    beams = {"beam_width": 5, "n": 3, "max_tokens": 18}
    expected = drive().one(PROMPT, **beams)
    driver = drive(**settings)
    names = [driver.send(PROMPT, **beams), driver.send(range(80, 95), max_tokens=20)]
    while driver.core.has_work():
        driver.step()
        driver.core.check()
    driver.core.check_idle()
    if "kv_cache_bytes" in settings:
        assert driver.core.stats().num_preemptions > 3
    assert driver.core.stats().prompt_tokens == 22 + 15
    found = driver.results[names[0]]
    assert [choice.tokens for choice in found.choices] == [choice.tokens for choice in expected.choices]


def test_beams_share_the_prompts_blocks(drive: Drive) -> None:
    driver = drive(prefix_caching=False)
    driver.send(range(40), beam_width=8, max_tokens=4)
    for _ in range(3):
        driver.step()
    assert 10 < driver.core.stats().kv_blocks_used <= 10 + 8
    driver.finish()


def test_nothing_is_sent_before_the_search_ends_and_an_abort_frees_all(drive: Drive) -> None:
    driver = drive()
    result = driver.one(PROMPT, beam_width=3, n=2, max_tokens=6)
    assert [(output.index, len(output.new_token_ids)) for output in result.outputs] == [(0, 6), (1, 6)]
    name = driver.send(PROMPT, beam_width=3, max_tokens=60)
    for _ in range(3):
        driver.step()
    driver.core.abort([name])
    assert driver.core.stats().kv_blocks_used == 0
    assert driver.finish()[name].outputs[-1].finish_reason == "abort"
