"""Where all layers slide, blocks that nobody sees are given back, and prefixes are found by their tails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduler
from slipway_engine.errors import RequestError
from slipway_engine.kv.blocks import PADDING_BLOCK, BlockPool
from slipway_engine.kv.hashing import root
from slipway_engine.sampling import SamplingParams

Drive = Callable[..., Any]
WINDOW = 10
BLOCK_BYTES = 4 * 2 * (2 * 16) * 4
PROMPT = tuple(range(3, 60))


@pytest.fixture(scope="session")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mistral all of whose layers see ten tokens."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, initializer_range=0.3,
        sliding_window=WINDOW, tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("sliding")
    MistralForCausalLM(config).save_pretrained(directory)
    return directory


def _scheduler(blocks: int = 30, **settings: Any) -> Scheduler:
    base: dict[str, Any] = {
        "block_size": 4, "max_num_seqs": 4, "max_batch_tokens": 8, "max_waiting": 10,
        "prefix_caching": True, "windows": (WINDOW,),
    }  # fmt: skip
    return Scheduler(BlockPool(blocks), **{**base, **settings})


def _add(scheduler: Scheduler, tokens: range, order: int) -> Request:
    request = Request(
        id=f"r{order}", tokens=list(tokens), prompt_length=len(tokens), limit=1000,
        sampling=SamplingParams(max_tokens=500), stop_ids=frozenset(), key=(0, 0.0, order), chain=[root("")],
        stream=0,
    )  # fmt: skip
    scheduler.add(request)
    return request


def _steps(scheduler: Scheduler, count: int) -> None:
    for _ in range(count):
        for row in scheduler.schedule():
            sampled = row.samples
            scheduler.advance(row)
            if sampled:
                row.request.append(7)
        scheduler.check()


def test_a_long_sequence_holds_no_more_than_its_window_and_a_chunk() -> None:
    scheduler = _scheduler()
    request = _add(scheduler, range(100), 0)
    most = 0
    for _ in range(60):
        _steps(scheduler, 1)
        most = max(most, scheduler.pool.used)
    assert len(request.tokens) > 140
    assert most <= scheduler.blocks_for(1000) == 7
    assert scheduler.pool.used <= 4
    # What the next token sees is all there: the ten before it.
    assert PADDING_BLOCK not in request.tables[0][(request.computed - WINDOW + 1) // 4 :]
    scheduler.remove(request)
    assert scheduler.pool.used == 0


def test_a_prefix_is_found_by_its_tail_alone() -> None:
    scheduler = _scheduler(blocks=12)
    first = _add(scheduler, range(60), 0)
    _steps(scheduler, 8)  # the first blocks of the prompt have been reused for its last
    scheduler.remove(first)
    second = _add(scheduler, range(62), 1)
    _steps(scheduler, 1)
    assert second.cached_tokens == 60
    assert second.tables[0][:13] == [PADDING_BLOCK] * 13  # 12 were not looked up, one has slid out since
    assert PADDING_BLOCK not in second.tables[0][13:]


def test_a_prefix_within_the_window_is_found_from_its_start() -> None:
    scheduler = _scheduler()
    first = _add(scheduler, range(9), 0)
    _steps(scheduler, 2)
    scheduler.remove(first)
    second = _add(scheduler, range(9), 1)
    _steps(scheduler, 1)
    assert second.cached_tokens == 8


def test_the_answers_are_those_of_transformers(drive: Drive, sliding: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(sliding, attn_implementation="eager").eval()
    expected = model.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=30, pad_token_id=0)
    driver = drive(model=sliding, max_batch_tokens=16)
    assert driver.one(PROMPT, max_tokens=30).tokens == expected[0, len(PROMPT) :].tolist()
    again = driver.one(PROMPT, max_tokens=30)
    assert again.tokens == expected[0, len(PROMPT) :].tolist()
    assert again.cached_tokens == 56


def test_a_small_cache_serves_long_sequences(drive: Drive, sliding: Path) -> None:
    sampling = {"temperature": 1.0, "seed": 3, "n": 2, "max_tokens": 150}
    expected = drive(model=sliding).one(PROMPT, **sampling)
    driver = drive(model=sliding, kv_cache_bytes=12 * BLOCK_BYTES, max_batch_tokens=16)
    assert driver.core.ready.num_kv_blocks * 4 < len(PROMPT)
    found = driver.one(PROMPT, **sampling)
    assert [choice.tokens for choice in found.choices] == [choice.tokens for choice in expected.choices]
    with pytest.raises(RequestError, match="which holds"):
        drive(model=sliding, kv_cache_bytes=6 * BLOCK_BYTES, max_batch_tokens=16).send(PROMPT)
