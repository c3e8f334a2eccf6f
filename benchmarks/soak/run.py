"""One soak: learn the capacity, offer a multiple of it, let the server come to rest, twice; then judge."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import aiohttp
from benchmarks.soak.client import Fault, send
from benchmarks.soak.mix import Mix, Request
from benchmarks.soak.server import Plan, Server

GROWTH_MIB, GROWTH_SHARE = 24, 0.03
"""What may differ between two moments of rest: the allocator's slack, not a request's worth each."""

LONGEST_MODEL_LEN = 2048
FLAGS: dict[str, int | str] = {
    "max-model-len": LONGEST_MODEL_LEN,
    "max-num-seqs": 32,
    "max-waiting": 24,
    "max-num-batched-tokens": 256,
    "kv-cache-memory-bytes": 160 << 20,
    "drain-seconds": 30,
}


@dataclass
class Report:
    """What happened: counts by (kind, end), faults in words, memory in MiB."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    sent: int = 0
    capacity: float = 0.0
    offered: float = 0.0
    seconds: float = 0.0
    planned: int = 0
    peak: int = 0
    rests: list[int] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        yield f"{self.sent} requests in {self.seconds:.0f} s"
        yield f"capacity {self.capacity:.1f} requests/s, offered {self.offered:.1f}/s"
        for kind in sorted({kind for kind, _ in self.ends}):
            ends = sorted((end, n) for (k, end), n in self.ends.items() if k == kind)
            yield f"  {kind}: " + ", ".join(f"{n} {end}" for end, n in ends)
        yield f"memory: at most {self.peak} of {self.planned} MiB planned; at rest {self.rests} MiB"
        kept = (
            "prompt_tokens_total",
            "generation_tokens_total",
            "num_preemptions_total",
            "prefix_cache_hits_total",
        )
        yield "server: " + ", ".join(
            f"{name} {self.metrics[name]:.0f}" for name in kept if name in self.metrics
        )
        yield f"{len(self.faults)} faults"
        groups = Counter(fault[:60] for fault in self.faults)
        for group, count in groups.most_common(20):
            yield f"  {count} x {next(fault for fault in self.faults if fault.startswith(group))}"


class Soak:
    """One server under load."""

    def __init__(self, server: Server, seed: int, report: Report) -> None:
        self._server = server
        self._report = report
        self._mix = iter(Mix("soak", LONGEST_MODEL_LEN, seed))
        self._draw = random.Random(seed + 1)

    async def run(self, seconds: float, overload: float) -> None:
        """Load the server for about `seconds`."""
        timeout, connector = (
            aiohttp.ClientTimeout(total=None),
            aiohttp.TCPConnector(limit=0, force_close=True),
        )
        began = time.monotonic()
        watch = asyncio.create_task(self._watch())
        async with aiohttp.ClientSession(self._server.url, connector=connector, timeout=timeout) as session:
            await self._closed(session, max(8.0, min(30.0, 0.15 * seconds)))
            left = seconds - (time.monotonic() - began)
            for share in (0.3, 0.7):
                await self._open(session, share * left, overload)
                await self._rest()
        watch.cancel()
        self._report.seconds = time.monotonic() - began

    async def _closed(self, session: aiohttp.ClientSession, seconds: float) -> None:
        """Learn the capacity: as many clients as there are seats, each with its next request at once."""
        end, before = time.monotonic() + seconds, self._report.sent

        async def client() -> None:
            while time.monotonic() < end:
                await self._one(session, next(self._mix))

        await asyncio.gather(*(client() for _ in range(int(FLAGS["max-num-seqs"]))))
        self._report.capacity = (self._report.sent - before) / (time.monotonic() - end + seconds)

    async def _open(self, session: aiohttp.ClientSession, seconds: float, overload: float) -> None:
        """Offer a multiple of the capacity, whatever becomes of it."""
        self._report.offered = rate = overload * self._report.capacity
        end, tasks = time.monotonic() + seconds, set[asyncio.Task[None]]()
        due = time.monotonic()
        while max(due, time.monotonic()) < end:
            due += self._draw.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one(session, next(self._mix)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _one(self, session: aiohttp.ClientSession, request: Request) -> None:
        self._report.sent += 1
        try:
            end = await send(session, request)
        except Fault as fault:
            end = "FAULT"
            self._report.faults.append(f"{request.kind}: {fault} (sent {request.body[:200]!r})")
        self._report.ends[request.kind, end] += 1

    async def _rest(self) -> None:
        if not await asyncio.to_thread(self._server.wait_idle, 60.0):
            self._report.faults.append(f"not idle after 60 s without requests: {self._server.metrics()}")
        await asyncio.sleep(2)
        self._report.rests.append(self._server.resident())

    async def _watch(self) -> None:
        """Note the most memory that was held; say so where the server is gone."""
        while True:
            self._report.peak = max(self._report.peak, self._server.resident())
            if self._server.process.poll() is not None:
                self._report.faults.append(f"the server ended with status {self._server.process.returncode}")
                return
            await asyncio.sleep(0.5)


def soak(model: Path, log: Path, *, seconds: float, overload: float = 2.0, seed: int = 0) -> Report:
    """Run a server and a soak against it; the report's `faults` are empty where all held."""
    report = Report()
    server = Server(model, log, FLAGS)
    try:
        server.wait_ready(120)
        report.planned = Plan.read(server.log()).total
        asyncio.run(Soak(server, seed, report).run(seconds, overload))
        _judge(report, server)
    finally:
        status = server.stop()
    if status != 0:
        report.faults.append(f"the server's exit status is {status}: {server.log()[-500:]}")
    return report


def _judge(report: Report, server: Server) -> None:
    """Add what only shows at the end."""
    report.metrics = server.metrics()
    faults = report.faults
    if sum(report.ends.values()) != report.sent:
        faults.append(f"{report.sent - sum(report.ends.values())} requests were lost")
    if report.peak > report.planned:
        faults.append(f"{report.peak} MiB were held, but {report.planned} MiB planned")
    first, last = report.rests[0], report.rests[-1]
    if last - first > max(GROWTH_MIB, GROWTH_SHARE * first):
        faults.append(f"memory at rest grew from {first} to {last} MiB")
    for kind, needed in (("chat", "tokens"), ("completion", "tokens"), ("deadline", "deadline_exceeded")):
        if not report.ends[kind, needed]:
            faults.append(
                f"no request of kind {kind!r} ended with {needed!r}: the load was not what it should be"
            )
    if not any(end == "queue_full" for _, end in report.ends):
        faults.append("the queue was never full, so this was no overload")
    faults += [f"the log complains: {line}" for line in islice(server.complaints(), 5)]
