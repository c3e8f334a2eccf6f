"""The house's own test: SmolLM2's greedy tokens are those of transformers on the same weights, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.loading.checkpoint import open_checkpoint

NEW_TOKENS = 48
MARGIN = 1e-3
TORCH: dict[str, Any] = {"kv_cache_bytes": 64 << 20, "device": "cpu", "cpu_backend": "torch"}
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a village by the sea, there lived an old fisherman who",
)


@dataclass(frozen=True)
class Reference:
    directory: Path
    prompts: list[list[int]]
    tokens: list[list[int]]


@pytest.fixture(scope="module")
def reference(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Unpack the GGUF into a Hugging Face directory and let transformers speak first."""
    directory = tmp_path_factory.mktemp("smollm2")
    checkpoint = open_checkpoint(smollm2)
    tensors = {name: torch.empty(shape) for name, shape in checkpoint.shapes.items()}
    for name, tensor in tensors.items():
        checkpoint.read_into(name, tensor)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    del tensors
    ours = checkpoint.config
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        max_position_embeddings=ours.max_position,
        rms_norm_eps=ours.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope.theta},
        tie_word_embeddings=True,
        eos_token_id=2,
        dtype="float32",
    ).save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    return Reference(directory, prompts, [_greedy(model, prompt) for prompt in prompts])


@torch.inference_mode()
def _greedy(model: LlamaForCausalLM, prompt: list[int]) -> list[int]:
    """Return the greedy tokens; the prompts were chosen so that no step is a tie."""
    tokens, cache, fed = [], None, prompt
    for _ in range(NEW_TOKENS):
        out = model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        assert best.values[0] - best.values[1] > MARGIN, "a tie: choose another prompt"
        tokens.append(int(best.indices[0]))
        fed = tokens[-1:]
    return tokens


def test_gguf_equals_transformers_alone_and_together(
    smollm2: Path, reference: Reference, driver: type[Any]
) -> None:
    drive = driver(EngineCore(EngineConfig(smollm2, **TORCH)))
    alone = [drive.one(prompt, max_tokens=NEW_TOKENS, ignore_eos=True) for prompt in reference.prompts]
    assert [result.tokens for result in alone] == reference.tokens
    assert _together(drive, reference.prompts) == reference.tokens


def test_safetensors_equal_transformers(reference: Reference, driver: type[Any]) -> None:
    config = EngineConfig(reference.directory, **TORCH)
    assert _together(driver(EngineCore(config)), reference.prompts) == reference.tokens


def _together(drive: Any, prompts: list[list[int]]) -> list[list[int]]:
    names = [drive.send(prompt, max_tokens=NEW_TOKENS, ignore_eos=True) for prompt in prompts]
    results = drive.finish()
    return [results[name].tokens for name in names]
