"""Limits read from made-up cgroup trees of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipway_engine.core import machine as module
from slipway_engine.core.machine import Machine


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_processors", lambda: 16)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1048576 kB\nMemAvailable:  524288 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("")
    return tmp_path


def write(tree: Path, path: str, text: str) -> None:
    target = tree / "cgroup" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\n")


def machine(tree: Path) -> Machine:
    return Machine(tree / "proc", tree / "cgroup")


def test_without_a_cgroup_the_machine_is_the_limit(tree: Path) -> None:
    assert machine(tree).threads() == 16
    assert machine(tree).memory_limit() == 1 << 30
    assert machine(tree).memory_available() == 1 << 29


def test_version_2_takes_the_tightest_on_the_way_up(tree: Path) -> None:
    (tree / "proc/self/cgroup").write_text("0::/pods/one\n")
    write(tree, "pods/one/cpu.max", "max 100000")
    write(tree, "pods/cpu.max", "250000 100000")
    write(tree, "pods/one/memory.max", "700000000")
    write(tree, "pods/memory.max", "max")
    assert machine(tree).threads() == 3
    assert machine(tree).memory_limit() == 700000000


def test_version_2_in_a_container_that_sees_itself_as_root(tree: Path) -> None:
    (tree / "proc/self/cgroup").write_text("0::/\n")
    write(tree, "cpu.max", "150000 100000")
    write(tree, "memory.max", "536870912")
    assert machine(tree).threads() == 2
    assert machine(tree).memory_limit() == 1 << 29


def test_version_1(tree: Path) -> None:
    (tree / "proc/self/cgroup").write_text("4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n")
    write(tree, "cpu/box/cpu.cfs_quota_us", "400000")
    write(tree, "cpu/box/cpu.cfs_period_us", "100000")
    write(tree, "cpu/cpu.cfs_quota_us", "-1")
    write(tree, "cpu/cpu.cfs_period_us", "100000")
    write(tree, "memory/box/memory.limit_in_bytes", "600000000")
    write(tree, "memory/memory.limit_in_bytes", "9223372036854771712")
    assert machine(tree).threads() == 4
    assert machine(tree).memory_limit() == 600000000


def test_processor_features(tree: Path) -> None:
    (tree / "proc/cpuinfo").write_text("processor: 0\nflags\t\t: sse avx2 avx512_bf16\n")
    assert machine(tree).has_cpu_flag("amx_bf16", "avx512_bf16")
    assert not machine(tree).has_cpu_flag("amx_bf16")


def test_this_machine_answers() -> None:
    found = Machine()
    assert 1 <= found.threads() <= (os.cpu_count() or 1)
    assert found.resident() > 1 << 20
    assert found.memory_limit() > found.resident()
