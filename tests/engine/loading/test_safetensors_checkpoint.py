"""Hugging Face directories: single and sharded, and everything that can be wrong with one, named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from slipway_engine.errors import EngineError, ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.loading.hf_config import read_config


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, eos_token_id=[2, 3],
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(directory / "single")
    LlamaForCausalLM(config).save_pretrained(directory / "sharded", max_shard_size="20KB")
    return directory


@pytest.fixture
def single(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved / "single", tmp_path / "single"))


@pytest.fixture
def sharded(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved / "sharded", tmp_path / "sharded"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def retensor(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def test_reads_shards(sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    checkpoint = open_checkpoint(sharded)
    merged: dict[str, torch.Tensor] = {}
    for shard in sharded.glob("*.safetensors"):
        merged.update(load_file(shard))
    for name, tensor in merged.items():
        out = torch.empty_like(tensor)
        checkpoint.read_into(name, out)
        assert torch.equal(out, tensor)


def test_end_of_sequence_ids_of_both_files(single: Path) -> None:
    edit(single / "generation_config.json", lambda values: values.update(eos_token_id=[3, 9]))
    assert open_checkpoint(single).config.eos_token_ids == (2, 3, 9)


def test_bfloat16_checkpoints_keep_their_type(single: Path) -> None:
    retensor(single, lambda tensors: tensors.update({k: v.bfloat16() for k, v in tensors.items()}))
    edit(single / "config.json", lambda values: values.update(dtype="bfloat16"))
    assert open_checkpoint(single).config.dtype is torch.bfloat16


UP = "model.layers.1.mlp.up_proj.weight"


def test_names_a_missing_tensor(single: Path) -> None:
    retensor(single, lambda tensors: tensors.pop(UP))
    with pytest.raises(ModelCorrupt, match=r"lacks the tensor .*layers\.1\.mlp\.up_proj"):
        open_checkpoint(single)


def test_names_an_extra_tensor(single: Path) -> None:
    retensor(single, lambda tensors: tensors.update(surprise=torch.ones(3)))
    with pytest.raises(ModelCorrupt, match="surprise"):
        open_checkpoint(single)


def test_names_a_misshapen_tensor(single: Path) -> None:
    retensor(single, lambda tensors: tensors.update({UP: torch.ones(5, 7)}))
    with pytest.raises(ModelCorrupt, match=r"up_proj.*\[5, 7\].*\[64, 32\]"):
        open_checkpoint(single)


def test_names_a_type_that_it_does_not_read(single: Path) -> None:
    retensor(single, lambda tensors: tensors.update({UP: torch.ones(64, 32, dtype=torch.int8)}))
    with pytest.raises(ModelUnsupported, match="I8"):
        open_checkpoint(single)


def test_names_a_missing_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelNotFound, match=shard.name):
        open_checkpoint(sharded)


@pytest.mark.parametrize("shard", ["../single/model.safetensors", "/etc/passwd", "pickle.bin", 7])
def test_an_index_cannot_point_outside(sharded: Path, shard: object) -> None:
    index = sharded / "model.safetensors.index.json"
    edit(index, lambda values: values["weight_map"].update({UP: shard}))
    with pytest.raises(ModelCorrupt, match="no file of this directory"):
        open_checkpoint(sharded)


def test_an_index_that_contradicts_its_shards(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    edit(index, lambda values: values["weight_map"].update(ghost=values["weight_map"][UP]))
    with pytest.raises(ModelCorrupt, match="ghost"):
        open_checkpoint(sharded)


def test_pickled_weights_are_never_read(single: Path) -> None:
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="safetensors"):
        open_checkpoint(single)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"architectures": ["MambaForCausalLM"]}, ModelUnsupported, "MambaForCausalLM.*LlamaForCausalLM"),
        ({"architectures": None}, ModelCorrupt, "architectures"),
        ({"hidden_act": "gelu"}, ModelUnsupported, "gelu"),
        ({"quantization_config": {"quant_method": "gptq"}}, ModelUnsupported, "gptq"),
        ({"num_hidden_layers": 10**9}, ModelCorrupt, "num_hidden_layers"),
        ({"num_hidden_layers": "2"}, ModelCorrupt, "num_hidden_layers"),
        ({"num_hidden_layers": True}, ModelCorrupt, "num_hidden_layers"),
        ({"num_attention_heads": 0}, ModelCorrupt, "num_attention_heads"),
        ({"num_key_value_heads": 3}, ModelCorrupt, "share 3 key heads"),
        ({"head_dim": 9}, ModelCorrupt, "9 elements"),
        ({"rms_norm_eps": -1}, ModelCorrupt, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ModelCorrupt, "factor"),
        ({"rope_parameters": {"rope_type": "ntk", "rope_theta": 1e4}}, ModelUnsupported, "'ntk'.*longrope"),
        ({"rope_scaling": {"type": "mrope"}, "rope_parameters": None}, ModelUnsupported, "'mrope'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ModelCorrupt, "rope_scaling.*rope_parameters"),
        ({"rope_parameters": {"full_attention": {"rope_type": "proportional"}}}, ModelUnsupported, "propor"),
        (
            {"layer_types": ["full_attention", "linear_attention"]},
            ModelUnsupported,
            "'linear_attention'.*full",
        ),
        ({"layer_types": ["sliding_attention", "full_attention"]}, ModelUnsupported, "layer_types.*full"),
        ({"layer_types": ["full_attention"]}, ModelCorrupt, "layer_types"),
        ({"attn_logit_softcapping": 50.0}, ModelUnsupported, "attn_logit_softcapping 50.*LlamaForCausalLM"),
        ({"use_bidirectional_attention": True}, ModelUnsupported, "use_bidirectional_attention True.*false"),
        ({"residual_multiplier": 0.2}, ModelUnsupported, "residual_multiplier"),
        ({"clip_qkv": 8}, ModelUnsupported, "clip_qkv 8.*null is"),
        ({"num_local_experts": 8}, ModelUnsupported, "num_local_experts"),
        ({"rope_parameters": [1]}, ModelCorrupt, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, ModelCorrupt, "freq_factor"),
        ({"eos_token_id": "2"}, ModelCorrupt, "eos_token_id"),
        ({"tie_word_embeddings": "no"}, ModelCorrupt, "tie_word_embeddings"),
        ({"dtype": "float8"}, ModelUnsupported, "float8"),
        ({"partial_rotary_factor": 0.5}, ModelUnsupported, "partial_rotary_factor"),
    ],
)
def test_names_the_field_that_is_wrong(
    single: Path, change: dict[str, Any], error: type[EngineError], word: str
) -> None:
    edit(single / "config.json", lambda values: values.update(change))
    with pytest.raises(error, match=word):
        read_config(single)


def test_the_older_layout_of_rope_and_dtype(single: Path) -> None:
    def older(values: dict[str, Any]) -> None:
        del values["rope_parameters"]
        values.pop("dtype", None)
        values.update(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}, torch_dtype="float16")

    edit(single / "config.json", older)
    config = read_config(single)
    assert (config.rope.theta, config.rope.kind, config.rope.factor) == (5e5, "linear", 2.0)
    assert config.dtype is torch.float16


@pytest.mark.parametrize("rows", [0, 1, 40, 63, 65, 200])
@pytest.mark.parametrize("fused", ["self_attn.qkv_proj", "mlp.gate_up_proj"])
def test_a_fused_tensor_of_another_height_is_named(single: Path, fused: str, rows: int) -> None:
    def fuse(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            for part in (
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
            ):
                del tensors[f"model.layers.{layer}.{part}.weight"]
            tensors[f"model.layers.{layer}.self_attn.qkv_proj.weight"] = torch.ones(64, 32)
            tensors[f"model.layers.{layer}.mlp.gate_up_proj.weight"] = torch.ones(128, 32)

    retensor(single, fuse)
    open_checkpoint(single)
    retensor(single, lambda tensors: tensors.update({f"model.layers.1.{fused}.weight": torch.ones(rows, 32)}))
    with pytest.raises(ModelCorrupt, match=r"model\.layers\.1\.(self_attn|mlp)\.\w+_proj"):
        open_checkpoint(single)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a": ' * 100000, "\x00\xff"])
def test_a_configuration_that_is_no_json_object(single: Path, content: str) -> None:
    (single / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelCorrupt, match=r"config\.json"):
        open_checkpoint(single)


def test_mutated_headers_end_in_a_named_error(single: Path) -> None:
    path = single / "model.safetensors"
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    rng, refused = random.Random(2), 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3])):
            content[rng.randrange(end)] = rng.choice(
                [0, 0x22, 0x2C, 0x5D, 0x7B, 0x39, 0xFF, rng.randrange(256)]
            )
        path.write_bytes(content)
        refused += _refuses(single)
    assert refused > 200


def test_truncated_files_end_in_a_named_error(single: Path) -> None:
    path = single / "model.safetensors"
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, 1000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert _refuses(single), size


def _refuses(directory: Path) -> bool:
    message = None
    try:
        checkpoint = open_checkpoint(directory)
        for name, shape in checkpoint.shapes.items():
            checkpoint.read_into(name, torch.empty(shape))
    except (ModelCorrupt, ModelUnsupported) as error:
        message = str(error)
    assert message is None or str(directory) in message
    return message is not None
