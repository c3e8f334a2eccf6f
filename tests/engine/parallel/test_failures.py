"""A group of real processes that loses one ends as a whole, in time, with a reason that names the rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)

LIMIT_SECONDS = 30.0


@contextmanager
def served(model: Path, tmp_path: Path, port: int, *flags: str, **environment: str) -> Iterator[Any]:
    argv = [sys.executable, "-m", "slipway_engine", "serve", str(model), "--port", str(port)]
    argv += ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000", "--max-model-len", "160", *flags]
    last_words = tmp_path / f"last-words-{port}"
    variables = {**os.environ, "SLIPWAY_TERMINATION_LOG": str(last_words), **environment}
    process = subprocess.Popen([*argv, "--device", "cpu"], env=variables)
    process.last_words = last_words  # type: ignore[attr-defined]
    process.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            body = response.read().decode()
            return response.status, body if url.endswith("/metrics") else json.loads(body)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
    except OSError:
        return 0, None


def until(condition: Callable[[], Any], seconds: float = 200.0) -> float:
    """Wait; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it never came true"
        time.sleep(0.1)
    return time.monotonic() - began


def ask(url: str, tokens: int) -> str:
    body = {"model": "m", "prompt": [5, 6, 7], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    asked = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as response:
        return json.loads(response.read())["choices"][0]["text"]


def ranks_under(pid: int) -> list[int]:
    """Return the processes below one that are ranks of a group."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"slipway_engine.parallel.rank" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(int(child))
        found += ranks_under(int(child))
    return found


@pytest.mark.parametrize(
    ("end", "reason"),
    [(signal.SIGKILL, "RankLost"), (signal.SIGSTOP, "RankSilent")],
    ids=["killed", "stopped"],
)
def test_a_rank_that_dies_or_hangs_ends_the_group_with_a_reason(models, tmp_path, unused_port, end, reason):
    with served(
        models("text"), tmp_path, unused_port, "--tensor-parallel-size", "2", "--served-model-name", "m"
    ) as server:
        until(lambda: get(server.url + "/ready")[0] == 200)
        assert ask(server.url, 4)
        (rank,) = ranks_under(server.pid)
        os.kill(rank, end)
        seen: list[Any] = []

        def sick() -> bool:
            status, body = get(server.url + "/health")
            seen.append((status, body))
            return status == 500

        took = until(sick)
        assert took < LIMIT_SECONDS
        assert seen[-1][1]["reason"] == reason
        assert f"Rank 1 (process {rank}" in seen[-1][1]["message"]
        assert server.wait(LIMIT_SECONDS - took) == 1
        assert json.loads(server.last_words.read_text())["reason"] == reason
        assert not Path(f"/proc/{rank}").exists(), "a rank outlived its group"


def test_a_pod_of_ranks_joins_by_its_environment_and_serves_no_requests(models, tmp_path, unused_port):
    group = {"LWS_LEADER_ADDRESS": "127.0.0.1", "LWS_GROUP_SIZE": "2"}
    flags = [
        "--pipeline-parallel-size",
        "2",
        "--group-port",
        str(unused_port + 2),
        "--served-model-name",
        "m",
    ]
    worker = served(models("text"), tmp_path, unused_port + 1, *flags, **group, LWS_WORKER_INDEX="1")
    leader = served(models("text"), tmp_path, unused_port, *flags, **group, LWS_WORKER_INDEX="0")
    with worker as second, leader as first:
        until(lambda: get(first.url + "/ready")[0] == 200)
        assert ask(first.url, 8)
        until(lambda: get(second.url + "/health")[1]["reason"] == "Healthy")
        assert get(second.url + "/v1/models")[0] == 404
        until(lambda: 'kind="logits"} 8' in get(second.url + "/metrics")[1], 10)
        assert 'slipway:group_rank_steps_total{model_name="m",rank="1"}' in get(first.url + "/metrics")[1]
        first.kill()
        assert until(lambda: get(second.url + "/health")[0] == 500) < LIMIT_SECONDS
        assert second.wait(LIMIT_SECONDS) == 1
        assert json.loads(second.last_words.read_text())["reason"] == "LeaderLost"


def test_who_never_comes_is_named(models, tmp_path, unused_port):
    group = {"LWS_LEADER_ADDRESS": "127.0.0.1", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "0"}
    flags = ["--tensor-parallel-size", "2", "--group-port", str(unused_port + 1), "--rendezvous-seconds", "2"]
    with served(models("text"), tmp_path, unused_port, *flags, **group) as server:
        assert server.wait(60) == 1
        said = json.loads(server.last_words.read_text())
        assert said["reason"] == "RankMissing"
        assert "After 2 s rank 1 of 2 had not joined" in said["message"]


def test_another_revision_of_the_model_is_refused(models, tmp_path, unused_port):
    group = {"LWS_LEADER_ADDRESS": "127.0.0.1", "LWS_GROUP_SIZE": "2"}
    flags = ["--tensor-parallel-size", "2", "--group-port", str(unused_port + 2)]
    worker = served(models("other text"), tmp_path, unused_port + 1, *flags, **group, LWS_WORKER_INDEX="1")
    leader = served(models("text"), tmp_path, unused_port, *flags, **group, LWS_WORKER_INDEX="0")
    with worker as second, leader as first:
        assert (first.wait(90), second.wait(90)) == (1, 1)
        for process in (first, second):
            said = json.loads(process.last_words.read_text())
            assert said["reason"] == "RankRefused"
            assert "give all pods of a group one revision of the model" in said["message"]


def test_a_rank_that_beats_but_computes_no_more_is_named(models, tmp_path, unused_port):
    """Its main thread hangs within a step, as in a kernel that never ends; a site module sees to that."""
    (tmp_path / "sitecustomize.py").write_text(HANGS_AT_STEP_6)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    flags = ["--tensor-parallel-size", "2", "--served-model-name", "m"]
    with served(models("text"), tmp_path, unused_port, *flags, PYTHONPATH=paths) as server:
        until(lambda: get(server.url + "/ready")[0] == 200)
        assert ask(server.url, 4)
        began = time.monotonic()
        with pytest.raises(OSError):
            ask(server.url, 4)
        assert server.wait(LIMIT_SECONDS) == 1
        assert time.monotonic() - began < LIMIT_SECONDS
        said = json.loads(server.last_words.read_text())
        assert said["reason"] == "RankHung"
        assert said["message"].startswith("Rank 1 (process ")


HANGS_AT_STEP_6 = """
import sys, time
if "slipway_engine.parallel.rank" in sys.orig_argv:
    from slipway_engine.parallel.stage import Stage
    compute = Stage.compute
    def hang(self, step):
        while self.steps == 6:
            time.sleep(1)
        return compute(self, step)
    Stage.compute = hang
"""
