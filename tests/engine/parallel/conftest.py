"""Small random models, and engines over several real processes on this machine's CPU."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.messages import NewRequest, RequestOutput
from slipway_engine.sampling import SamplingParams

SHAPE: dict[str, Any] = {
    "vocab_size": 199, "hidden_size": 72, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 256,
    "initializer_range": 0.3, "tie_word_embeddings": True, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a model by name: with heads as SmolLM2 has them, as Gemma 3, with experts; a path stays."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name.startswith("/"):
            return Path(name)
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(len(name))
            _model(name).save_pretrained(made[name])
            if "text" in name:
                _add_words(made[name])
        return made[name]

    return make


def _model(name: str) -> Any:
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    if name == "smollm2":
        return LlamaForCausalLM(LlamaConfig(**SHAPE))
    if "text" in name:
        return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_attention_heads": 4, "num_key_value_heads": 2}))
    if name == "gemma3":  # one key head, layers of two kinds, an uneven number of them
        kinds = [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "full")]
        shape = {
            **SHAPE, "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 5,
            "layer_types": kinds, "sliding_window": 37,
        }  # fmt: skip
        return Gemma3ForCausalLM(Gemma3TextConfig(**shape))
    shape = {
        **SHAPE, "num_attention_heads": 8, "num_key_value_heads": 2, "num_experts": 6,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1,
        "norm_topk_prob": True, "mlp_only_layers": [], "tie_word_embeddings": False,
    }  # fmt: skip
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape))


def _add_words(directory: Path) -> None:
    """Give a model words, so that it can be served."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    words = {f"w{number}": number for number in range(199)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))


class Engine:
    """A core, and what its requests brought."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.outputs: dict[str, list[RequestOutput]] = {}

    def send(self, name: str, prompt: list[int], **asked: Any) -> None:
        others = {key: asked.pop(key) for key in ("prompt_logprobs",) if key in asked}
        params = SamplingParams(**{"temperature": 0.0, **asked})
        self.core.add_request(NewRequest(name, tuple(prompt), params, time.monotonic(), **others))
        self.outputs[name] = []

    def step(self) -> None:
        for output in self.core.step().outputs:
            self.outputs[output.request_id].append(output)

    def finish(self) -> None:
        while self.core.has_work():
            self.step()
            self.core.check()
        self.core.check_idle()

    def tokens(self, name: str, index: int = 0) -> list[int]:
        return [token for one in self.outputs[name] if one.index == index for token in one.new_token_ids]

    def logprobs(self, name: str, index: int = 0) -> list[Any]:
        return [entry for one in self.outputs[name] if one.index == index for entry in one.logprobs]


@pytest.fixture
def unused_port() -> int:
    """The first of three ports in a row that nobody has, below those that the system gives away."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + 3):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no three ports in a row are free")


@pytest.fixture(scope="module")
def engines(models: Callable[[str], Path]) -> Iterator[Callable[..., Engine]]:
    """Start engines by model and degrees. A process can be in one group: another one ends the one before."""
    started: dict[Any, EngineCore] = {}

    def start(model: str, tensor: int = 1, pipeline: int = 1, **settings: Any) -> Engine:
        key = (model, tensor, pipeline, *sorted(settings.items()))
        if key not in started:
            if tensor * pipeline > 1:
                for other in [one for one in started if one[1:3] != (1, 1)]:
                    started.pop(other).close()
            base: dict[str, Any] = {
                "block_size": 4, "max_batch_tokens": 32, "max_num_seqs": 8, "max_model_len": 160,
                "kv_cache_bytes": 1 << 20, "dtype": "float32", "device": "cpu", "num_threads": 1,
                "cpu_backend": "torch", "rendezvous_seconds": 120.0,
            }  # fmt: skip
            degrees = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
            started[key] = EngineCore(EngineConfig(models(model), **{**base, **degrees, **settings}))
        return Engine(started[key])

    yield start
    for core in started.values():
        core.close()
