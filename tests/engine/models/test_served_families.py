"""New features through the whole core: the plan counts them, and batches say what transformers says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.messages import NewRequest
from slipway_engine.core.torch_backend import TorchBackend
from slipway_engine.core.torch_models import OwnModel
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.models import linear
from slipway_engine.sampling import SamplingParams

CPU = torch.device("cpu")
MARGIN = 1e-3
SETTINGS: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.15, "eos_token_id": 5, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {"sliding_window": 9, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {"sliding_window": 9, "query_pre_attn_scalar": 16}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {"sliding_window": 9}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True},
    ),
}


def _save(name: str, directory: Path) -> Any:
    config, model, extra = MODELS[name]
    torch.manual_seed(3)
    made = getattr(transformers, model)(getattr(transformers, config)(**SETTINGS, **extra)).eval()
    made.save_pretrained(directory)
    return made


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_batched_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = _save(name, tmp_path)
    core = EngineCore(
        EngineConfig(
            tmp_path,
            device="cpu",
            num_threads=1,
            kv_cache_dtype="float32",
            kv_cache_bytes=1 << 20,
            max_model_len=64,
            max_batch_tokens=16,
            max_num_seqs=4,
        )
    )
    generator = torch.Generator().manual_seed(1)
    prompts = {
        str(size): torch.randint(6, 131, (size,), generator=generator).tolist() for size in (3, 21, 34)
    }
    greedy = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    for key, prompt in prompts.items():
        core.add_request(NewRequest(key, tuple(prompt), greedy, 0.0))
    said: dict[str, list[int]] = {key: [] for key in prompts}
    while core.has_work():
        for output in core.step().outputs:
            said[output.request_id] += output.new_token_ids
    compared = 0
    for key, prompt in prompts.items():
        assert len(said[key]) == 12
        logits = model(torch.tensor([prompt + said[key]])).logits[0, len(prompt) - 1 : -1]
        for token, row in zip(said[key], logits, strict=True):
            best = row.topk(2)
            if float(best.values[0] - best.values[1]) > MARGIN:
                assert token == int(best.indices[0])
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_counts_every_weight(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _save(name, tmp_path)
    monkeypatch.setattr(linear, "best_for", lambda device, dtype: linear.plain)
    backend = TorchBackend(OwnModel(open_checkpoint(tmp_path), CPU, torch.float32), CPU, torch.float32)
    held = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert backend.needs(0).weights == held


def test_the_plan_counts_capped_scores_and_a_second_rotary_table(tmp_path: Path) -> None:
    def needs(name: str) -> Any:
        _save(name, tmp_path / name)
        model = OwnModel(open_checkpoint(tmp_path / name), CPU, torch.float32)
        return TorchBackend(model, CPU, torch.float32).needs(0)

    capped, dual = needs("gemma2"), needs("gemma3")
    assert capped.score_bytes_per_pair == 4 * 4 * SETTINGS["num_attention_heads"]
    assert dual.score_bytes_per_pair == 0
    assert dual.rotary_bytes_per_token == 2 * capped.rotary_bytes_per_token
