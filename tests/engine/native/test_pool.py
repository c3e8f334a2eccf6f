"""The thread team: every task once, no loop before the last one's end, no data race."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slipway_engine.native import build


@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-g", "-fsanitize=thread"]], ids=["plain", "sanitized"])
def test_loops_on_teams_of_any_size(tmp_path: Path, flags: list[str]) -> None:
    program = tmp_path / "pool_check"
    sources = [str(Path(__file__).with_name("pool_check.cpp")), str(build.SOURCES / "pool.cpp")]
    command = [build.find_compiler(), "-std=c++20", *flags, f"-I{build.SOURCES}", *sources, "-pthread"]
    subprocess.run([*command, "-o", str(program)], check=True)
    # Without address-space randomisation, which old sanitizers cannot live with.
    done = subprocess.run(
        ["setarch", "-R", str(program)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
