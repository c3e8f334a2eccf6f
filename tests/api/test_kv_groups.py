"""Layers in groups of one size: how many, how large, and what a sequence holds of them."""

from __future__ import annotations

import pytest

from slipway_api.facts.model import ModelFacts
from slipway_api.kv_groups import MOST_GROUPS, KvGroups, blocks_of, group_layers
from slipway_api.ledger import MIB, Asked, divide
from slipway_api.needs import Shape, needs_of

LONGEST = 32768


@pytest.mark.parametrize(
    ("counts", "layers", "windows"),
    [
        ({None: 30}, 30, (None,)),
        ({4096: 32}, 32, (4096,)),
        ({None: 13, 4096: 13}, 13, (None, 4096)),
        ({None: 4, 512: 22}, 4, (None, *(512,) * 6)),
        ({None: 10, 512: 52}, 10, (None, *(512,) * 6)),
        ({None: 12, 512: 13}, 13, (None, 512)),
        ({512: 8, 1024: 8, None: 4}, 4, (None, 512, 512, 1024, 1024)),
        ({None: 13, LONGEST: 13}, 26, (None,)),
        ({None: 0, 512: 6}, 6, (512,)),
    ],
)
def test_groups_are_of_the_rarest_kinds_size(
    counts: dict[int | None, int], layers: int, windows: tuple[int | None, ...]
) -> None:
    assert group_layers(counts, LONGEST) == KvGroups(layers, windows)


def test_there_are_never_many_groups_and_every_layer_has_its_place() -> None:
    for full in range(1, 60):
        for sliding in range(1, 60):
            groups = group_layers({None: full, 512: sliding}, LONGEST)
            assert len(groups.windows) <= MOST_GROUPS
            assert groups.windows.count(None) * groups.layers >= full
            assert groups.windows.count(512) * groups.layers >= sliding


def test_a_sliding_group_holds_its_window_a_chunk_and_the_ends() -> None:
    assert blocks_of((None,), 1000, 64, 16) == 63
    assert blocks_of((100,), 1000, 64, 16) == 11 + 2
    assert blocks_of((100,), 50, 64, 16) == 4
    assert blocks_of((None, 100, 100), 1000, 64, 16) == 63 + 2 * 13


def _gemma(**changes: object) -> ModelFacts:
    values: dict[str, object] = {
        "architecture": "Gemma3ForCausalLM", "format": "safetensors", "parameters": 10**9,
        "weights": {"BF16": 2 * 10**9}, "dtype": "BF16", "layers": 26, "hidden": 1152, "intermediate": 6912,
        "heads": 4, "kv_heads": 1, "head_dim": 256, "kv_width": 512, "kv_layers": 26, "vocab": 262144,
        "max_position": LONGEST, "tied": True, "windows": ((512, 22),), **changes,
    }  # fmt: skip
    return ModelFacts.model_validate(values)


def test_the_plan_of_a_sliding_model_offers_more_of_the_same_memory() -> None:
    asked = Asked(LONGEST, 64, 512, 16, None, 90)
    plain = divide(needs_of(_gemma(windows=()), Shape(cpu=True)), asked, 8000 * MIB, 8000 * MIB)
    sliding = divide(needs_of(_gemma(), Shape(cpu=True)), asked, 8000 * MIB, 8000 * MIB)
    assert abs(sliding.kv_cache - plain.kv_cache) < 2 * MIB
    assert sliding.max_tokens > 4 * plain.max_tokens
    assert sliding.max_sequences(64) > 4 * plain.max_sequences(64)
    longest = Asked(None, 64, 512, 16, None, 90)
    limit = 5900 * MIB
    short = divide(needs_of(_gemma(windows=()), Shape(cpu=True)), longest, limit, limit).max_model_len
    assert short < divide(needs_of(_gemma(), Shape(cpu=True)), longest, limit, limit).max_model_len


@pytest.mark.parametrize(
    ("changes", "pipeline"), [({}, 2), ({"kv_layers": 20}, 1), ({"latent": True}, 1), ({"windows": ()}, 1)]
)
def test_where_it_is_not_known_which_layers_slide_all_are_one_group(
    changes: dict[str, object], pipeline: int
) -> None:
    assert needs_of(_gemma(**changes), Shape(pipeline=pipeline)).kv_windows == (None,)
