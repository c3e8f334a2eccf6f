"""Embedding requests go through the scheduler like any other: in chunks, preempted, cached, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from slipway_engine.errors import RequestError

Drive = Callable[..., Any]
PROMPT = tuple(range(3, 60))
BLOCK_BYTES = 4 * 2 * (2 * 16) * 4


@pytest.fixture(scope="session")
def embedder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, published as one that makes embeddings of unit length."""
    directory = tmp_path_factory.mktemp("embedder")
    for path in tiny.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return directory


def _reference(tiny: Path, prompt: tuple[int, ...], mode: str) -> torch.Tensor:
    from transformers import AutoModel

    with torch.no_grad():
        states = AutoModel.from_pretrained(tiny).eval()(torch.tensor([prompt])).last_hidden_state[0]
    vector = {"mean": states.mean(dim=0), "last": states[-1], "cls": states[0]}[mode]
    return normalize(vector, dim=0)


def _embedding(driver: Any, name: str) -> torch.Tensor:
    (output,) = driver.results[name].outputs
    assert (output.finish_reason, output.new_token_ids) == ("stop", ())
    return torch.tensor(output.embedding)


@pytest.mark.parametrize("mode", ["mean", "last", "cls"])
@pytest.mark.parametrize("settings", [
    {"max_batch_tokens": 64},
    {"max_batch_tokens": 8},
    {"max_batch_tokens": 8, "kv_cache_bytes": 20 * BLOCK_BYTES},
])  # fmt: skip
def test_is_what_transformers_makes(
    drive: Drive, tiny: Path, embedder: Path, mode: str, settings: dict[str, Any]
) -> None:
    driver = drive(model=embedder, **settings)
    assert driver.core.ready.pooling == "mean"
    prompts = [PROMPT, PROMPT, tuple(range(90, 150)), (7,)]
    names = [driver.send(prompt, pooling=mode, max_tokens=0) for prompt in prompts]
    driver.finish()
    for name, prompt in zip(names, prompts, strict=True):
        expected = _reference(tiny, prompt, mode)
        torch.testing.assert_close(_embedding(driver, name), expected, atol=1e-5, rtol=0)


def test_each_kind_of_model_refuses_the_others_requests(drive: Drive, embedder: Path) -> None:
    with pytest.raises(RequestError, match="makes no embeddings"):
        drive().send(PROMPT, pooling="last", max_tokens=0)
    with pytest.raises(RequestError, match="/v1/embeddings"):
        drive(model=embedder).send(PROMPT)
