"""The portable kernels on another architecture, run by an emulator: the same numbers as here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from slipway_engine.native import build

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


def printed(compiler: str, runner: list[str], program: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Compile the check with the portable kernels alone, run it, and return the numbers that it prints."""
    units = [unit for unit in build.SOURCES.glob("*.cpp") if unit.stem not in build.UNITS]
    command = [compiler, *build.COMMON, *build.QUIET, "-DSLIPWAY_PORTABLE_ONLY", "-static", "-pthread"]
    sources = [str(Path(__file__).with_name("arch_check.cpp")), *map(str, units)]
    subprocess.run([*command, f"-I{build.SOURCES}", *sources, "-o", str(program)], check=True)
    done = subprocess.run([*runner, str(program)], capture_output=True, text=True, check=True, timeout=240)
    return np.array([float(line) for line in done.stdout.split()])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(COMPILER), reason=f"{COMPILER} is not installed")
@pytest.mark.skipif(not shutil.which(EMULATOR), reason=f"{EMULATOR} is not installed")
def test_arm64_computes_the_same(tmp_path: Path) -> None:
    """But for fused and split roundings, and what follows from a key at the edge of two bytes."""
    here = printed(build.find_compiler(), [], tmp_path / "here")
    there = printed(COMPILER, [EMULATOR], tmp_path / "there")
    assert len(here) == len(there) > 1000
    assert np.isfinite(here).all()
    error = np.abs(here - there) / np.abs(here).max()
    assert error.max() < 5e-3
    assert error.mean() < 1e-5
