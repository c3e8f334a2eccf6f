"""What several folders of the engine's tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from slipway_engine.native import build, library


@pytest.fixture(scope="session")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile the native library where nobody has; skip where there is no compiler."""
    if library.available():
        yield
        return
    try:
        build.find_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    os.environ["SLIPWAY_NATIVE_LIBRARY"] = str(build.build(tmp_path_factory.mktemp("native")))
    yield
    del os.environ["SLIPWAY_NATIVE_LIBRARY"]
