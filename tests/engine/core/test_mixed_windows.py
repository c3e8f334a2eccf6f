"""Models whose layers mix windows and full attention: what they hold, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduler
from slipway_engine.core.scoring import Scorer
from slipway_engine.errors import RequestError
from slipway_engine.kv.blocks import PADDING_BLOCK, BlockPool
from slipway_engine.kv.hashing import root
from slipway_engine.kv.layout import layout_of, one_group
from slipway_engine.models.config import AttentionLayer
from slipway_engine.sampling import SamplingParams

Drive = Callable[..., Any]
WINDOW = 10
WINDOWS = (None, WINDOW, WINDOW)
SLIDING_WINDOW = 18
PROMPT = [(7 * place * place + 3 * place) % 199 for place in range(100)]
SHAPE: dict[str, Any] = {
    "vocab_size": 199, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.3,
    "eos_token_id": None, "bos_token_id": None, "sliding_window": SLIDING_WINDOW,
}  # fmt: skip


@pytest.fixture(scope="module", params=["Gemma2", "Gemma3"])
def gemma(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Two layers of each kind, or five that slide with one that does not."""
    import transformers

    torch.manual_seed(3)
    names = f"{request.param}TextConfig", f"{request.param}Config"
    kind = next(getattr(transformers, name) for name in names if hasattr(transformers, name))
    config = kind(**SHAPE, num_hidden_layers=4 if request.param == "Gemma2" else 6)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{request.param}ForCausalLM")(config).eval()
    directory = tmp_path_factory.mktemp("gemma")
    model.save_pretrained(directory)
    return directory, model


@pytest.fixture(params=["native", "torch"])
def core(request: pytest.FixtureRequest, drive: Drive, gemma: tuple[Path, Any]) -> Callable[..., Any]:
    """Make an engine that keeps what it computes as it is, so that only rounding differs."""
    if request.param == "native":
        request.getfixturevalue("native_library")

    def make(**settings: Any) -> Any:
        exact = {"quantization": "none", "kv_cache_dtype": "float32", "cpu_backend": request.param}
        return drive(**{"model": gemma[0], "block_size": 16, "max_batch_tokens": 24, **exact, **settings})

    return make


def _scheduler(blocks: int = 90, **settings: Any) -> Scheduler:
    base: dict[str, Any] = {
        "block_size": 4, "max_num_seqs": 4, "max_batch_tokens": 8, "max_waiting": 10,
        "prefix_caching": True, "windows": WINDOWS,
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


def test_only_the_groups_that_see_everything_keep_everything() -> None:
    scheduler = _scheduler()
    request = _add(scheduler, range(100), 0)
    for _ in range(60):
        _steps(scheduler, 1)
        assert scheduler.pool.used <= scheduler.blocks_for(request.computed)
    assert request.computed > 140
    seen = (request.computed - WINDOW + 1) // 4
    full, *sliding = request.tables
    assert PADDING_BLOCK not in full
    for table in sliding:
        assert len(table) == len(full)
        assert set(table[:seen]) == {PADDING_BLOCK}
        assert PADDING_BLOCK not in table[seen:]
    assert scheduler.pool.used == len(full) + 2 * (len(full) - seen)
    scheduler.remove(request)
    assert scheduler.pool.used == 0


def test_a_prefix_needs_all_of_the_one_and_the_tail_of_the_others() -> None:
    scheduler = _scheduler(blocks=30)
    first = _add(scheduler, range(60), 0)
    _steps(scheduler, 8)  # what slid out of the windows has been used again
    scheduler.remove(first)
    second = _add(scheduler, range(62), 1)
    _steps(scheduler, 1)
    assert second.cached_tokens == 60
    scheduler.remove(second)
    third = _add(scheduler, range(30), 2)  # all are there for the full group, for the others no tail
    _steps(scheduler, 1)
    assert third.cached_tokens == 0


def test_forks_copy_the_block_that_they_write_in_every_group() -> None:
    scheduler = _scheduler()
    parent = _add(scheduler, range(30), 0)
    _steps(scheduler, 4)
    child = parent.twin(1, (0, 0.0, 1), 1)
    assert scheduler.fork(parent, child)
    scheduler.check()
    scheduler.schedule()
    assert len(scheduler.copies) == 3
    at = parent.computed // 4
    assert {table[at] for table in parent.tables}.isdisjoint(table[at] for table in child.tables)
    for sequence in (parent, child):
        scheduler.remove(sequence)
    assert scheduler.pool.used == 0


def test_layers_of_different_shapes_share_blocks_as_they_are() -> None:
    layers = [AttentionLayer(4, heads, 16, 16, 1.0, window) for heads, window in ((2, 8), (4, None), (2, 8))]
    assert layout_of(layers, 100) == one_group(layers)
    assert one_group(layers).groups.windows == (None,)
    assert one_group(layers[::2]).groups.windows == (8,)


def _logprobs(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits.float().log_softmax(1)


def _compare(found: Any, rows: torch.Tensor, tokens: list[int]) -> None:
    assert len(found) == len(rows) == len(tokens)
    for entry, row, token in zip(found, rows, tokens, strict=True):
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(row[token]), abs=2e-3)
        for other, logprob in entry.top:
            assert logprob == pytest.approx(float(row[other]), abs=2e-3)


def test_logits_are_those_of_transformers(core: Callable[..., Any], gemma: tuple[Path, Any]) -> None:
    """Of a prompt five windows long, in chunks, and of what follows it, on a cold cache and on hits."""
    driver = core()
    scored = driver.one(PROMPT, max_tokens=1, prompt_logprobs=5)
    _compare(scored.prompt_logprobs, _logprobs(gemma[1], PROMPT)[:-1], PROMPT[1:])
    for prompt, cached in (
        (PROMPT, 96),
        (PROMPT, 96),
        (PROMPT[:-1], 96),
        (PROMPT * 2, 112),
        ([*PROMPT, 5], 96),
    ):
        found = driver.one(prompt, max_tokens=40, logprobs=5)
        assert 0 < found.cached_tokens <= cached + 48
        rows = _logprobs(gemma[1], [*prompt, *found.tokens])[len(prompt) - 1 : -1]
        _compare(found.logprobs, rows, found.tokens)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_scoring_has_a_table_for_each_group(
    native_library: None, gemma: tuple[Path, Any], backend: str
) -> None:
    config = EngineConfig(
        gemma[0], cpu_backend=backend, quantization="none", kv_cache_dtype="float32", dtype="float32",
        device="cpu", num_threads=1,
    )  # fmt: skip
    rows = torch.cat([part.clone() for part in Scorer(config, len(PROMPT)).logits(PROMPT)])
    torch.testing.assert_close(rows.log_softmax(1), _logprobs(gemma[1], PROMPT), atol=2e-3, rtol=0)


def test_long_requests_hold_less_and_more_of_them_fit(
    core: Callable[..., Any], gemma: tuple[Path, Any]
) -> None:
    driver = core(kv_cache_bytes=1 << 19, max_model_len=400)
    memory, windows = driver.core.memory, driver.core.memory.kv_windows
    bytes_per_token = memory.kv_cache // (memory.num_blocks + 1) * len(windows) // 16
    assert bytes_per_token == len(gemma[1].model.layers) * 2 * 32 * 4  # no place is empty here
    assert memory.max_tokens > 1.2 * ((1 << 19) // bytes_per_token)
    driver.send(PROMPT * 3, max_tokens=60)
    for _ in range(30):
        driver.step()
    length = 16 * -(-len(PROMPT * 3) // 16)
    everything = len(windows) * length // 16
    sliding = windows.count(SLIDING_WINDOW)
    assert driver.core.stats().kv_blocks_used <= everything - sliding * (length // 16 - 4)
    driver.finish()


def test_a_small_cache_serves_what_one_table_could_not_hold(core: Callable[..., Any]) -> None:
    sampling = {"temperature": 1.0, "seed": 3, "n": 2, "max_tokens": 150}
    driver = core()
    expected = driver.one(PROMPT, **sampling)
    memory = driver.core.memory
    block = memory.kv_cache // (memory.num_blocks + 1)
    groups = len(memory.kv_windows)
    most = driver.core._scheduler.blocks_for(len(PROMPT) + 149)
    assert most < groups * 16
    small = core(kv_cache_bytes=(most + 1) * block)
    found = small.one(PROMPT, **sampling)
    assert [choice.tokens for choice in found.choices] == [choice.tokens for choice in expected.choices]
    with pytest.raises(RequestError, match=r"need 265 tokens of KV cache, which holds 256"):
        small.send(PROMPT, max_tokens=166)
