"""A plan is a promise: under the worst load that its limits allow, the core stays below what was planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from slipway_api.ledger import OTHER_PROCESS

WORST_LOAD = Path(__file__).parent / "worst_load.py"
LIMIT_MIB = 1400
CACHE = {"kv_cache_bytes": 12 << 20, "max_model_len": 320}
BYTES = {"kv_cache_dtype": "int8", "kv_cache_bytes": 4 << 20}
SETTINGS: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 2048,
}  # fmt: skip
KINDS = [f"{kind}_attention" for kind in ("sliding", "sliding", "full", "sliding")]
WINDOWS = {"sliding_window": 64, "layer_types": KINDS}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(1)
    directory = tmp_path_factory.mktemp("models")
    LlamaForCausalLM(LlamaConfig(**SETTINGS)).save_pretrained(directory / "llama")
    moe = Qwen2MoeConfig(**{**SETTINGS, **EXPERTS, "shared_expert_intermediate_size": 256})
    Qwen2MoeForCausalLM(moe).save_pretrained(directory / "qwen2-moe")
    Gemma3ForCausalLM(Gemma3TextConfig(**SETTINGS, **WINDOWS)).save_pretrained(directory / "gemma3")
    return {name: directory / name for name in ("llama", "qwen2-moe", "gemma3")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings", "backend"),
    [
        ("llama", {}, "NativeBackend"),
        ("llama", {"cpu_backend": "torch"}, "TorchBackend"),
        ("llama", {"cpu_backend": "torch", "quantization": "int8", **BYTES}, "TorchBackend"),
        ("qwen2-moe", {}, "TorchBackend"),
        ("gemma3", {"kv_cache_bytes": 8 << 20}, "NativeBackend"),
        ("gemma3", {"kv_cache_bytes": 8 << 20, "cpu_backend": "torch"}, "TorchBackend"),
    ],
)
def test_the_worst_load_stays_within_the_plan(
    models: dict[str, Path], model: str, settings: dict[str, Any], backend: str
) -> None:
    settings = {"max_num_seqs": 8, "max_batch_tokens": 256, **CACHE, **settings}
    done = subprocess.run(
        [sys.executable, str(WORST_LOAD), str(models[model]), str(LIMIT_MIB), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert seen["backend"] == backend
    assert seen["planned"] <= seen["usable"] == LIMIT_MIB * (1 << 20) * 90 // 100
    assert seen["most_blocks"] > 0.9 * seen["blocks"]
    assert seen["peak"] > seen["before"]
    assert seen["peak"] <= seen["planned"] - OTHER_PROCESS, seen


def test_a_limit_that_no_plan_can_keep_is_refused_before_loading(models: dict[str, Path]) -> None:
    done = subprocess.run(
        [sys.executable, str(WORST_LOAD), str(models["llama"]), "300"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "DoesNotFit: The model does not fit" in done.stderr
    assert "raise the memory limit" in done.stderr
