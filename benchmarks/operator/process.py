"""The operator as a process of this machine, its metrics, and what it costs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from benchmarks.operator.api import until

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/slipway/engine:none"
WRITES = ("apply", "create", "update", "delete")
# So long without a write counts as quiet.
QUIET_SECONDS = 3.0

T = TypeVar("T")


@dataclass
class Operator:
    """One running operator."""

    process: asyncio.subprocess.Process
    port: int

    async def metrics(self) -> dict[str, float]:
        """Return its metrics by name and labels; none where it does not answer."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
            ):
                lines = (await answer.text()).splitlines()
        except aiohttp.ClientError:
            return {}
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}

    async def ready(self) -> bool:
        """Return whether it says that it is ready."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port + 1}/readyz") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def quiet(self) -> float:
        """Wait until nothing is written any more and no object waits; return when the last of it was."""
        last, count = time.perf_counter(), -1.0
        while time.perf_counter() - last < QUIET_SECONDS:
            seen = await self.metrics()
            if writes(seen) != count or seen.get("slipway_operator_queue_depth", 1.0):
                last, count = time.perf_counter(), writes(seen)
            await asyncio.sleep(0.1)
        return last

    def spent(self) -> tuple[float, float]:
        """Return its CPU seconds and its largest resident size in MiB."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return ticks / os.sysconf("SC_CLK_TCK"), int(peak.group(1)) / 1024 if peak else 0.0

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns. Raises RuntimeError as soon as the operator ends."""
        working, ended = asyncio.ensure_future(work), asyncio.ensure_future(self.process.wait())
        try:
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise RuntimeError(
                    f"the operator ended with status {ended.result()}; see its log (--log FILE)"
                )
            return working.result()
        finally:
            working.cancel()
            ended.cancel()

    async def kill(self) -> None:
        """Kill it without a word of warning."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def operator(
    namespace: str, port: int = 18391, relist_seconds: int = 300, log: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[Operator]:
    """Run the operator of this checkout for one namespace until it is ready, and end it afterwards."""
    words = ["run", "--namespace", namespace, "--lease-namespace", namespace, "--engine-image", IMAGE]
    words += ["--relist-seconds", str(relist_seconds), "--host", "127.0.0.1"]
    ports = ["--health-port", str(port + 1), "--metrics-port", str(port)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "slipway_operator", *words, *ports, cwd=ROOT, stderr=log
    )
    running = Operator(process, port)
    try:
        await until(running.ready, 60)
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def reconciles(seen: Mapping[str, float]) -> float:
    """Return the number of reconciles."""
    return sum(v for name, v in seen.items() if name.startswith("slipway_operator_reconcile_seconds_count"))


def requests(seen: Mapping[str, float]) -> dict[str, float]:
    """Return the requests by verb and resource, the Lease's aside."""
    found: dict[str, float] = {}
    for name, value in seen.items():
        match = re.match(r'slipway_operator_api_requests_total\{.*resource="([^"]+)".*verb="(\w+)"', name)
        if match and match.group(1) != "leases":
            key = f"{match.group(2)} {match.group(1)}"
            found[key] = found.get(key, 0.0) + value
    return found


def writes(seen: Mapping[str, float]) -> float:
    """Return the number of writes, the Lease's aside."""
    return sum(value for name, value in requests(seen).items() if name.split()[0] in WRITES)


def quantile(after: Mapping[str, float], before: Mapping[str, float], part: float) -> float:
    """Return a quantile of the reconciles between two readings, as Prometheus estimates it, in seconds."""
    buckets: dict[float, float] = {}
    for name, value in after.items():
        found = re.match(r'slipway_operator_reconcile_seconds_bucket\{.*le="([^"]+)"', name)
        if found:
            bound = float(found.group(1).replace("+Inf", "inf"))
            buckets[bound] = buckets.get(bound, 0.0) + value - before.get(name, 0.0)
    rank, low, below = part * max(buckets.values(), default=0.0), 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= rank and count > below:
            return low if bound == float("inf") else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low
