"""The GPU check runs on a machine that has torch and transformers, and nothing of the HTTP side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

ABSENT = {"fastapi", "starlette", "uvicorn", "msgpack", "prometheus_client", "pydantic", "rich", "kopf",
          "kubernetes", "openai"}

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = ["check.py", *sys.argv[1:]]
runpy.run_path(%r, run_name="__main__")
"""


def test_it_runs_without_the_http_extras() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT % str(ROOT / "benchmarks/gpu/check.py"),
            "--device",
            "cpu",
            "--models",
            "qwen3",
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["machine"]["torch"]
    assert {check["what"].partition(" (")[0] for check in report["checks"]} == {
        "logits in chunks", "keys and values in the cache", "logits, int8 cache", "batched greedy tokens",
        "with preemption",
    }  # fmt: skip
    assert "the CPU is compared with itself" in done.stderr


def test_the_core_brings_no_modelling_that_it_does_not_need() -> None:
    """A process that serves one of our own decoders holds no transformers, a hundred megabytes of code."""
    code = "import sys, slipway_engine.core.engine; print('transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False"
