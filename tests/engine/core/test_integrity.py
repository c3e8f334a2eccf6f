"""Requests of every kind at once, in too little memory: each gets, to the bit, what it gets alone.

On the native path a row's result depends on that row alone, so nothing less than equality is asked for, of
tokens and of log-probabilities. CI runs a few hundred requests; SLIPWAY_INTEGRITY_REQUESTS asks for more
(thousands take minutes: each request also runs alone).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Drive = Callable[..., Any]

REQUESTS = int(os.environ.get("SLIPWAY_INTEGRITY_REQUESTS", "250"))
VOCAB = 199
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "initializer_range": 0.3, "tie_word_embeddings": False, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def native(native_library: None) -> None:
    """These tests run the native path."""


@pytest.fixture(scope="module", params=["full attention", "sliding windows", "both"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that the native path runs; where layers differ, in three groups with one empty place."""
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
    )

    torch.manual_seed(3)
    directory = tmp_path_factory.mktemp("integrity")
    if request.param == "full attention":
        LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(directory)
    elif request.param == "both":
        kinds = [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "full")]
        shape = {**SHAPE, "num_hidden_layers": 5, "layer_types": kinds, "sliding_window": 37}
        Gemma3ForCausalLM(Gemma3TextConfig(**shape)).save_pretrained(directory)
    else:
        MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=37)).save_pretrained(directory)
    return directory


def _request(rng: random.Random, seed: int, stems: list[list[int]]) -> dict[str, Any]:
    prompt = rng.choice(stems)[: rng.randrange(60)] + [
        rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))
    ]
    kind = rng.choice(
        [
            {},
            {"repetition_penalty": 1.2, "logprobs": 2},
            {"temperature": 1.0, "top_k": 20, "n": rng.choice([1, 1, 2, 4])},
            {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.5, "n": rng.choice([1, 2, 3])},
            {"temperature": 1.0, "min_p": 0.02, "n": rng.choice([1, 2]), "best_of": rng.choice([2, 4])},
            {"beam_width": rng.choice([2, 3, 5]), "n": 2, "early_stopping": rng.random() < 0.5},
            {"prompt_logprobs": rng.choice([0, 3]), "logprobs": 1},
            {"prompt_logprobs": 1, "temperature": 1.0, "n": 2},
        ]
    )
    stops = tuple(rng.randrange(VOCAB) for _ in range(rng.choice([0, 0, 2])))
    return {
        "prompt": prompt, "seed": seed, "salt": rng.choice(["", "", "t"]), "max_tokens": rng.randint(1, 40),
        "priority": rng.choice([0, 0, 0, -1, 3]), "stop_token_ids": stops, **kind,
    }  # fmt: skip


def _answer(result: Any) -> list[Any]:
    choices = [(one.tokens, one.logprobs, one.finish_reason, one.stop_reason) for one in result.choices]
    return [choices, result.prompt_logprobs]


def _is_part(found: Any, whole: Any) -> bool:
    """Say whether what was answered before an end by force is the beginning of the whole answer."""
    (choices, scores), (all_choices, all_scores) = found, whole
    return scores == all_scores[: len(scores)] and all(
        one[0] == other[0][: len(one[0])] and one[1] == other[1][: len(one[1])]
        for one, other in zip(choices, all_choices, strict=False)
    )


@pytest.mark.parametrize("seed", range(max(1, REQUESTS // 250)))
def test_each_request_gets_to_the_bit_what_it_gets_alone(drive: Drive, model: Path, seed: int) -> None:
    rng = random.Random(seed)
    stems = [[rng.randrange(VOCAB) for _ in range(60)] for _ in range(4)]
    requests = [_request(rng, at, stems) for at in range(min(REQUESTS, 250))]
    settings = {"model": model, "cpu_backend": "native", "block_size": 16}
    lone = drive(
        **settings, prefix_caching=False, max_batch_tokens=200, max_num_seqs=5, kv_cache_bytes=1 << 22
    )
    alone = [_answer(lone.one(**dict(request))) for request in requests]

    groups = lone.core.memory.kv_windows
    blocks = {1: 14, 3: 28}[len(groups)]
    bytes_per_block = 16 * 2 * (2 * 32) * 2  # tokens, layers, key and value elements, bytes
    driver = drive(
        **settings,
        kv_cache_bytes=blocks * bytes_per_block,
        max_waiting=999,
        max_batch_tokens=48,
        max_num_seqs=7,
    )
    names: dict[str, int] = {}
    forced: set[str] = set()
    pending = list(range(len(requests)))
    while pending or driver.core.has_work():
        for _ in range(min(len(pending), rng.choice([0, 0, 1, 2, 6]))):
            index = pending.pop(0)
            late = {"deadline": time.monotonic() + rng.random() / 20} if rng.random() < 0.05 else {}
            name = driver.send(**dict(requests[index]), **late)
            names[name] = index
            if late:
                forced.add(name)
        if rng.random() < 0.03 and names:
            forced.add(gone := rng.choice(list(names)))
            driver.core.abort([gone])
        driver.step()
        driver.core.check()
    driver.core.check_idle()
    stats = driver.core.stats()
    assert stats.num_preemptions > len(requests) // 15
    assert stats.prefix_cache_hits > len(requests) // 3
    finished = 0
    for name, index in names.items():
        found = _answer(driver.results[name])
        if driver.results[name].outputs[-1].finish_reason in ("abort", "error"):
            assert name in forced
            assert driver.results[name].outputs[-1].error_code in ("internal_error", "deadline_exceeded")
            assert _is_part(found, alone[index])
        else:
            finished += 1
            assert found == alone[index], requests[index]
    assert finished > len(requests) // 2
