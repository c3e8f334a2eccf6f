"""A pod of a group other than the leader's: it starts its ranks, and answers /health and /metrics for them.

It serves nothing else. Where one of its ranks ends, health fails, the reason is written where Kubernetes
looks for it, and the pod ends, so that the group is started again as a whole.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse, PlainTextResponse

from slipway_engine.config import EngineConfig
from slipway_engine.errors import InvalidArgument
from slipway_engine.parallel.counts import METRICS, Counts
from slipway_engine.parallel.environment import Pod
from slipway_engine.parallel.shard import Degrees
from slipway_engine.parallel.terms import degrees_words
from slipway_engine.termination import write_termination_log

log = logging.getLogger(__name__)

_STALE_SECONDS = 12.0
_LAST_ANSWERS_SECONDS = 2.0
_LINE_BYTES = 1 << 20


@dataclass(slots=True)
class Rank:
    """A process of this pod, and what it last said."""

    number: int
    process: asyncio.subprocess.Process
    said: dict[str, Any] = field(default_factory=lambda: {"state": "joining"})
    at: float = field(default_factory=time.monotonic)


class Ranks:
    """The ranks of this pod."""

    def __init__(self) -> None:
        self.ranks: list[Rank] = []
        self.failure: tuple[str, str] | None = None

    def health(self, now: float) -> tuple[bool, str, str]:
        """Return whether all ranks work, a stable reason and a sentence."""
        if self.failure is not None:
            return False, *self.failure
        for rank in self.ranks:
            if rank.said["state"] not in ("joining",) and now - rank.at > _STALE_SECONDS:
                return False, "RankSilent", f"Rank {rank.number} has said nothing for {now - rank.at:.0f} s."
        states = {str(rank.said["state"]) for rank in self.ranks}
        return (
            True,
            "Healthy" if states == {"ready"} else "Loading",
            f"The ranks are {', '.join(sorted(states))}.",
        )

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        lines: dict[str, list[str]] = {}
        for rank in self.ranks:
            for name, labels, value in (
                Counts.of(rank.said["counts"]).samples() if rank.said.get("counts") else ()
            ):
                words = ",".join(f'{key}="{word}"' for key, word in labels.items())
                lines.setdefault(name, []).append(f"slipway:{name}_total{{{words}}} {value}\n")
        return "".join(
            f"# HELP slipway:{name}_total {METRICS[name]}\n# TYPE slipway:{name}_total counter\n"
            + "".join(own)
            for name, own in lines.items()
        )


def serve_ranks(config: EngineConfig, pod: Pod, host: str, port: int, log_format: str) -> int:
    """Run this pod's ranks until they end; return the exit status. Raises InvalidArgument."""
    if config.tensor_parallel_size is None:
        raise InvalidArgument("--tensor-parallel-size auto chooses for one pod; write the degree in a group.")
    total = config.tensor_parallel_size * config.pipeline_parallel_size
    if total % pod.size:
        raise InvalidArgument(f"{total} ranks cannot be divided among {pod.size} pods.")
    return asyncio.run(_serve(config, pod, total, host, port, log_format))


async def _serve(config: EngineConfig, pod: Pod, total: int, host: str, port: int, log_format: str) -> int:
    ranks, local = Ranks(), total // pod.size
    server = uvicorn.Server(
        uvicorn.Config(_app(ranks), host=host, port=port, lifespan="off", log_config=None, access_log=False)
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    answering = asyncio.create_task(server.serve())
    readers = []
    for number in range(pod.index * local, (pod.index + 1) * local):
        rank, pipe = await _start(config, pod, total, number, local, log_format)
        ranks.ranks.append(rank)
        readers.append(asyncio.create_task(_read(rank, pipe)))
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    status = await _until_the_end(ranks, readers, stop)
    server.should_exit = True
    await answering
    return status


async def _until_the_end(ranks: Ranks, readers: list[asyncio.Task[None]], stop: asyncio.Event) -> int:
    """Wait until a rank ends, or until told to stop; a leader that drains lets the ranks leave by itself."""
    ends = [asyncio.create_task(rank.process.wait()) for rank in ranks.ranks]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((*ends, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        log.info("Stopping: the ranks end with their leader.")
        await asyncio.wait(ends)
    await asyncio.wait(readers, timeout=1.0)
    failed = next((rank for rank in ranks.ranks if rank.process.returncode not in (None, 0)), None)
    if failed is None:
        await asyncio.wait(ends, timeout=5.0)
        return 0
    said = failed.said
    reason = str(said.get("reason", "RankLost"))
    message = str(said.get("message", f"Rank {failed.number} ended with status {failed.process.returncode}."))
    ranks.failure = reason, message
    log.error(message, extra={"reason": reason})
    write_termination_log(reason, message)
    await asyncio.sleep(_LAST_ANSWERS_SECONDS)
    for rank in ranks.ranks:
        if rank.process.returncode is None:
            rank.process.kill()
    return 1


async def _start(
    config: EngineConfig, pod: Pod, total: int, number: int, local: int, log_format: str
) -> tuple[Rank, int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    degrees = Degrees(
        config.tensor_parallel_size or 1, config.pipeline_parallel_size, config.enable_expert_parallel
    )
    argv = [sys.executable, "-u", "-m", "slipway_engine.parallel.rank"]
    argv += ["--leader", f"{pod.leader}:{config.group_port}", "--rank", str(number), "--ranks", str(total)]
    argv += ["--degrees", degrees_words(degrees), "--local", str(local), "--model", str(config.model)]
    argv += ["--seconds", str(config.rendezvous_seconds), "--parent", str(os.getpid())]
    argv += ["--report-fd", str(writing), "--log-format", log_format]
    process = await asyncio.create_subprocess_exec(
        *argv, pass_fds=(writing,), stdin=asyncio.subprocess.DEVNULL
    )
    os.close(writing)
    return Rank(number, process), reading


async def _read(rank: Rank, pipe: int) -> None:
    """Take note of each line that a rank writes."""
    reader = asyncio.StreamReader(_LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb"))
    while line := await reader.readline():
        if line.endswith(b"\n"):
            rank.said = json.loads(line)
            rank.at = time.monotonic()


def _app(ranks: Ranks) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Say whether all ranks of the pod work."""
        ok, reason, message = ranks.health(time.monotonic())
        return JSONResponse(
            {"status": "ok" if ok else "failed", "reason": reason, "message": message}, 200 if ok else 500
        )

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Return the ranks' counters."""
        return PlainTextResponse(ranks.metrics(), media_type="text/plain; version=0.0.4")

    return app
