"""A GGUF checkpoint equals the Hugging Face directory that it was made from, permutation undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from slipway_engine.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.loading.gguf_checkpoint import GGUFCheckpoint

CONFIG = LlamaConfig(
    vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, eos_token_id=2,
)  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _permuted(name: str, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter does to rows of queries and keys."""
    heads = {"attn_q": 4, "attn_k": 2}.get(name)
    if heads is None:
        return weight
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(model: LlamaForCausalLM, path: Path, architecture: str = "llama", **extra: Any) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(7)
    for key, value in extra.items():
        writer.add_string(f"{architecture}.{key.replace('__', '.')}", value)
    for name, tensor in model.state_dict().items():
        stem = name.removesuffix(".weight").removeprefix("model.")
        top = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}.get(stem)
        if top is None:
            _, layer, part = stem.split(".", 2)
            top = f"blk.{layer}.{NAMES[part]}"
        writer.add_tensor(f"{top}.weight", _permuted(top.rpartition(".")[2], tensor.numpy()))
    if model.config.rope_parameters["rope_type"] == "llama3":
        base = 1 / 10000.0 ** (torch.arange(0, 8, 2) / 8)
        factors = base / model.model.rotary_emb.inv_freq
        writer.add_tensor("rope_freqs.weight", factors.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    model.save_pretrained(tmp_path / "hf")
    write(model, tmp_path / "model.gguf")
    return tmp_path / "hf", tmp_path / "model.gguf"


def test_same_tensors_and_configuration_from_both_formats(pair: tuple[Path, Path]) -> None:
    directory, file = (open_checkpoint(path) for path in pair)
    assert dict(file.shapes) == dict(directory.shapes)
    for name, shape in file.shapes.items():
        ours, theirs = torch.empty(shape), torch.empty(shape)
        file.read_into(name, ours)
        directory.read_into(name, theirs)
        assert torch.equal(ours, theirs), name
    for field in ("vocab_size", "head_dim", "num_kv_heads", "max_position", "rope", "tied_embeddings"):
        assert getattr(file.config, field) == getattr(directory.config, field), field
    assert file.config.eos_token_ids == (2, 7)


def test_stored_rope_factors_turn_like_the_formula(tmp_path: Path) -> None:
    from slipway_engine.models.rope import inverse_frequencies

    model = LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_dict(), "rope_parameters": LLAMA3}))
    model.save_pretrained(tmp_path / "hf")
    write(model, tmp_path / "model.gguf")
    by_factors = open_checkpoint(tmp_path / "model.gguf").config.rope
    by_formula = open_checkpoint(tmp_path / "hf").config.rope
    assert (by_factors.kind, by_formula.kind) == ("factors", "llama3")
    expected = model.model.rotary_emb.inv_freq
    torch.testing.assert_close(inverse_frequencies(by_factors, 8), expected)
    torch.testing.assert_close(inverse_frequencies(by_formula, 8), expected)


def test_the_real_file(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    config = checkpoint.config
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (30, 9, 3, 64)
    assert config.tied_embeddings
    assert config.eos_token_ids == (2,)
    assert config.rope.theta == 100000.0
    assert config.parameters() == 134515008


def test_a_directory_with_one_gguf_file_is_that_file(pair: tuple[Path, Path]) -> None:
    directory = pair[1].parent / "alone"
    directory.mkdir()
    pair[1].rename(directory / "model.gguf")
    assert isinstance(open_checkpoint(directory), GGUFCheckpoint)
    (directory / "second.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="holds 2 GGUF files"):
        open_checkpoint(directory)


def test_names_an_architecture_that_it_does_not_run(tmp_path: Path) -> None:
    write(LlamaForCausalLM(CONFIG), tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(ModelUnsupported, match=r"'mamba'.*llama, qwen2, qwen3"):
        open_checkpoint(tmp_path / "m.gguf")


def test_names_a_rope_scaling_that_it_does_not_run(tmp_path: Path) -> None:
    write(LlamaForCausalLM(CONFIG), tmp_path / "m.gguf", rope__scaling__type="mrope")
    with pytest.raises(ModelUnsupported, match=r"'mrope'.*yarn"):
        open_checkpoint(tmp_path / "m.gguf")


def test_names_the_tensor_that_is_missing(tmp_path: Path) -> None:
    model = LlamaForCausalLM(CONFIG)
    del model.model.layers[1].mlp.up_proj
    write(model, tmp_path / "m.gguf")
    with pytest.raises(ModelCorrupt, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        open_checkpoint(tmp_path / "m.gguf")
