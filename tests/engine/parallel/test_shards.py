"""Which degrees a model allows, and what each rank holds then: arithmetic."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from slipway_api.degrees import stages_of
from slipway_engine.errors import InvalidArgument, ModelUnsupported
from slipway_engine.models.config import DecoderConfig, ExpertsConfig, RopeConfig
from slipway_engine.parallel.choice import smallest
from slipway_engine.parallel.environment import Pod, group_pod
from slipway_engine.parallel.shard import Degrees, Part, check, cut, shard_of, tensor_degrees

SMOLLM2 = DecoderConfig(
    architecture="LlamaForCausalLM", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_layers=30,
    num_heads=9, num_kv_heads=3, head_dim=64, max_position=8192, rms_eps=1e-5, rope=RopeConfig(),
    tied_embeddings=True,
)  # fmt: skip
EIGHT = replace(
    SMOLLM2, num_heads=32, num_kv_heads=8, hidden_size=4096, intermediate_size=14336, head_dim=128
)


def test_legal_degrees_divide_heads_columns_and_blocks():
    assert tensor_degrees(SMOLLM2) == (1, 3)
    assert tensor_degrees(EIGHT) == (1, 2, 4, 8, 16, 32)
    assert tensor_degrees(EIGHT, 256) == (1, 2, 4, 8)  # 14336 / 16 is 3.5 blocks
    assert tensor_degrees(replace(EIGHT, qk_norm_wide=True)) == (1,)


@pytest.mark.parametrize(
    ("config", "degrees", "said"),
    [
        (SMOLLM2, Degrees(2), "9 heads, 3 key heads, an inner width of 1536 allow 1 or 3."),
        (SMOLLM2, Degrees(1, 31), "more than the model's 30 layers; write at most 30."),
        (SMOLLM2, Degrees(3, 1, expert=True), "has no experts; leave it out."),
        (EIGHT, Degrees(32, 4), "128 ranks; a group has at most 64."),
        (replace(EIGHT, experts=ExpertsConfig(6, 2, True)), Degrees(4, 1, True), "6 experts allow 1 or 2."),
    ],
)
def test_what_is_not_possible_is_refused_with_what_is(config, degrees, said):
    with pytest.raises(InvalidArgument) as refused:
        check(config, degrees)
    assert said in str(refused.value)


def test_a_norm_over_all_heads_is_not_cut():
    with pytest.raises((ModelUnsupported, InvalidArgument)):
        check(replace(EIGHT, qk_norm_wide=True), Degrees(2))
    check(replace(EIGHT, qk_norm_wide=True), Degrees(1, 2))


@pytest.mark.parametrize("degrees", [Degrees(3, 1), Degrees(1, 4), Degrees(3, 7)])
def test_the_ranks_hold_everything_once(degrees):
    shards = [shard_of(SMOLLM2, degrees, rank) for rank in range(degrees.ranks)]
    for stage in range(degrees.pipeline):
        peers = [shard for shard in shards if shard.stage == stage]
        for of in ("heads", "kv_heads", "inner", "words"):
            parts = [getattr(shard, of) for shard in peers]
            assert parts[0].start == 0
            assert all(one.stop == other.start for one, other in itertools.pairwise(parts))
    layers = [shard.layers for shard in shards[:: degrees.tensor]]
    assert (layers[0].start, layers[-1].stop) == (0, 30)
    assert shards[0].config(SMOLLM2).num_heads == 9 // degrees.tensor


def test_key_heads_are_repeated_where_there_are_fewer_than_ranks():
    config = replace(EIGHT, num_kv_heads=2)
    shards = [shard_of(config, Degrees(8), rank) for rank in range(8)]
    assert [shard.kv_heads for shard in shards] == [Part(0, 1)] * 4 + [Part(1, 2)] * 4


def test_uneven_layers_go_to_the_middle():
    assert stages_of(30, 4) == (7, 8, 8, 7)
    assert stages_of(5, 2) == (3, 2)
    assert stages_of(7, 3) == (2, 3, 2)
    assert [cut(199, 3, part).size for part in range(3)] == [67, 66, 66]


def test_auto_is_the_first_degree_that_fits():
    assert smallest((1, 2, 4), lambda degree: degree >= 2) == 2
    assert smallest((1, 2, 4), lambda degree: False) is None


def test_a_pod_finds_its_place_in_the_environment():
    said = {"LWS_LEADER_ADDRESS": "a.b", "LWS_GROUP_SIZE": "3", "LWS_WORKER_INDEX": "2"}
    assert group_pod(said) == Pod("a.b", 3, 2)
    assert group_pod({}) == Pod()
    for wrong in ({"LWS_WORKER_INDEX": "3"}, {"LWS_GROUP_SIZE": "x"}, {"LWS_LEADER_ADDRESS": ""}):
        with pytest.raises(InvalidArgument):
            group_pod(said | wrong)
