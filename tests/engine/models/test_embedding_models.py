"""Directories in sentence-transformers' layout: their vectors are those of transformers' hidden states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from slipway_engine.config import EngineConfig
from slipway_engine.core.device import choose_backend
from slipway_engine.core.machine import Machine
from slipway_engine.core.torch_backend import TorchBackend
from slipway_engine.errors import EngineError
from slipway_engine.loading.checkpoint import open_model
from slipway_engine.models import context
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.pooling import Pool, Pooling, pooled

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.15, "eos_token_id": 5, "tie_word_embeddings": True,
}  # fmt: skip
LAYOUT = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
MODES = {
    "last": "pooling_mode_lasttoken",
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
}


def _save(
    directory: Path, mode: str = "last", *, bare: bool = True, normalised: bool = True, kind: str = "Qwen3"
) -> Any:
    """Save a model as its authors do: without a head, and named by its base class or by its head's."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**SETTINGS)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    (model.model if bare else model).save_pretrained(directory)
    (directory / "modules.json").write_text(json.dumps(LAYOUT if normalised else LAYOUT[:2]))
    (directory / "1_Pooling").mkdir()
    chosen = {name: name == MODES[mode] for name in MODES.values()}
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 64, **chosen, "include_prompt": True})
    )
    return model.model


def _states(directory: Path, text: list[int], chunks: list[int]) -> list[torch.Tensor]:
    """Return the states of each chunk, as our model computes them through the cache."""
    model = open_model(directory)
    backend = choose_backend(EngineConfig(directory, device="cpu", dtype="float32"), model, Machine())
    assert isinstance(backend, TorchBackend)
    decoder = backend._model.load(128, lambda done, total: None)
    layers = model.config.attention_layers
    paged = PagedAttention(model.config, [torch.zeros(20, 4, layer.elements) for layer in layers])
    found, at = [], 0
    for size in chunks:
        step = context.build([context.Span(at, size, list(range(1, 20)))], 4, CPU, torch.float32)
        hidden = decoder.embed(torch.tensor(text[at : at + size]))
        found.append(decoder.states(decoder.forward(hidden, step.positions, paged.bind(step))))
        at += size
    return found


@pytest.mark.parametrize(
    ("kind", "bare"),
    [("Qwen3", True), ("Qwen3", False), ("Llama", True), ("Llama", False), ("Olmo", False)],
)
@torch.inference_mode()
def test_the_vector_is_that_of_the_hidden_states(kind: str, bare: bool, tmp_path: Path) -> None:
    model = _save(tmp_path, "mean", bare=bare, kind=kind)
    text = torch.randint(0, 131, (37,), generator=torch.Generator().manual_seed(1)).tolist()
    reference = model(torch.tensor([text])).last_hidden_state[0]
    pooling = open_model(tmp_path).pooling
    assert pooling == Pooling("mean", normalised=True)
    pool = Pool(pooling)
    for states in _states(tmp_path, text, [20, 1, 16]):
        pool.add(states)
    expected = normalize(reference.mean(dim=0), dim=0)
    torch.testing.assert_close(pool.vector(), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_each_mode_takes_its_own_states() -> None:
    states = torch.randn(9, 8)
    expected = {"last": states[-1], "cls": states[0], "mean": states.mean(dim=0)}
    for mode, vector in expected.items():
        torch.testing.assert_close(pooled(states, mode), vector)
        pool = Pool(Pooling(mode))
        for part in torch.split(states, [4, 1, 4]):
            pool.add(part)
        torch.testing.assert_close(pool.vector(), normalize(vector, dim=0))


@pytest.mark.parametrize("mode", MODES)
def test_the_layout_says_the_mode(mode: str, tmp_path: Path) -> None:
    _save(tmp_path, mode, normalised=False)
    assert open_model(tmp_path).pooling == Pooling(mode, normalised=False)


def test_a_model_without_modules_makes_no_embeddings(tmp_path: Path) -> None:
    _save(tmp_path, bare=False)
    (tmp_path / "modules.json").unlink()
    assert open_model(tmp_path).pooling is None


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("modules.json", {"not": "a list"}, "holds no list of JSON objects"),
        ("modules.json", LAYOUT[:1], "the modules Transformer are not supported"),
        ("modules.json", [*LAYOUT, LAYOUT[2]], "are not supported"),
        ("modules.json", [LAYOUT[0], {**LAYOUT[1], "path": "../1_Pooling"}], "path is '../1_Pooling'"),
        ("modules.json", [LAYOUT[0], {**LAYOUT[1], "type": "x.Dense"}], "Transformer, Dense are not"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens is not"),
        ("1_Pooling/config.json", dict.fromkeys(MODES.values(), True), "is not supported; one of"),
        ("1_Pooling/config.json", {}, "nothing is not supported"),
    ],
)
def test_what_cannot_be_pooled_is_refused(file: str, content: Any, sentence: str, tmp_path: Path) -> None:
    _save(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(EngineError, match=sentence):
        open_model(tmp_path)


def test_a_lost_tensor_is_named(tmp_path: Path) -> None:
    _save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EngineError, match=r"lacks the tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        open_model(tmp_path)
