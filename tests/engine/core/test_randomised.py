"""Hundreds of requests, aborted, preempted and sharing prefixes at random: each gets what it gets alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Drive = Callable[..., Any]


def _requests(rng: random.Random, count: int) -> list[dict[str, Any]]:
    stems = [[rng.randrange(199) for _ in range(24)] for _ in range(4)]
    made = []
    for seed in range(count):
        stem = rng.choice(stems)[: rng.randrange(25)]
        prompt = stem + [rng.randrange(199) for _ in range(rng.randint(1, 20))]
        kind = rng.choice(
            [
                {"temperature": 0.0},
                {"temperature": 0.0, "repetition_penalty": 1.2},
                {"temperature": 1.0, "top_k": 20},
                {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.5},
            ]
        )
        limits = {"max_tokens": rng.randint(1, 40), "priority": rng.choice([0, 0, 0, -1, 3])}
        made.append({"prompt": prompt, "seed": seed, "salt": rng.choice(["", "", "t"]), **limits, **kind})
    return made


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma of three layers, of which two see 13 tokens."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(3)
    config = Gemma3TextConfig(
        vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, initializer_range=0.3,
        sliding_window=13, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("mixed")
    Gemma3ForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(("seed", "kinds"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_each_request_gets_what_it_gets_alone(
    request: pytest.FixtureRequest, drive: Drive, seed: int, kinds: int
) -> None:
    rng = random.Random(seed)
    requests = _requests(rng, 120)
    settings = {"model": request.getfixturevalue("tiny" if kinds == 1 else "mixed")}
    alone_driver = drive(**settings, prefix_caching=False, max_batch_tokens=64)
    alone = [alone_driver.one(**dict(request)).tokens for request in requests]
    bytes_per_block = 4 * 2 * (2 * 16) * 4  # tokens, layers, key and value elements, bytes
    settings["kv_cache_bytes"] = {1: 25, 2: 20}[kinds] * bytes_per_block
    driver = drive(**settings, max_waiting=200, max_batch_tokens={1: 24, 2: 12}[kinds])
    names: dict[str, int] = {}
    aborted: set[str] = set()
    pending = list(range(len(requests)))
    while pending or driver.core.has_work():
        for _ in range(min(len(pending), rng.choice([0, 0, 1, 2, 6]))):
            index = pending.pop(0)
            names[driver.send(**dict(requests[index]))] = index
        if rng.random() < 0.05 and names:
            aborted.add(rng.choice(list(names)))
            driver.core.abort(list(aborted))
        driver.step()
        driver.core.check()
    driver.core.check_idle()
    stats = driver.core.stats()
    assert stats.num_preemptions > {1: 10, 2: 3}[kinds]
    assert stats.prefix_cache_hits > {1: 100, 2: 5}[kinds]
    finished = 0
    for name, index in names.items():
        result = driver.results[name]
        if result.finish_reason == "abort":
            assert name in aborted
            assert result.tokens == alone[index][: len(result.tokens)]
        else:
            finished += 1
            assert result.finish_reason == "length"
            assert result.tokens == alone[index], requests[index]
    assert finished > 60
