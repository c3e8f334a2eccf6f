"""The workloads A to C over HTTP: ours as `slipway-engine serve`, peers as their own servers.

    python benchmarks/engine/over_http.py --peers /tmp/peers --llama-server /tmp/peers/bin/llama-server
    python benchmarks/engine/over_http.py --server mine=http://127.0.0.1:8080

All servers are up at once and one is asked at a time, in an order that turns with the round. Prompts are text
of random lower-case words, about a token each; answers are streams, and each event counts as a token. Where a
server has no `ignore_eos`, answers may end early; its tokens a second count what came. llama-cpp-python's
server answers one request after the other; llama.cpp's own has a slot for each of A's requests and one cache
for all slots. `--server` names one that is up already, its model loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import prepare
from machine import Floors, bundled_model, processor
from run import words
from workloads import HIGHER_IS_BETTER, WORKLOADS, Job, figures

from slipway_engine.core.machine import Machine
from slipway_engine.tokenizer.load import load_tokenizer

OURS = {
    "slipway": [],
    "slipway-float32": ["--quantization", "none"],
    "slipway-int8": ["--quantization", "int8"],
    "slipway-int8-kv8": ["--quantization", "int8", "--kv-cache-dtype", "int8"],
}
LLAMA_SERVERS = {"llama-server": None, "llama-server-q8_0": "Q8_0"}
METRICS = {
    "A": ("output_tokens_per_second", "ttft_ms"),
    "B": ("ttft_ms", "decode_tokens_per_second"),
    "C": ("seconds",),
}


@dataclass
class Target:
    """A server, and what it measured."""

    name: str
    url: str
    process: subprocess.Popen[bytes] | None = None
    flags: str = ""
    found: dict[tuple[str, str], list[float]] = field(default_factory=dict)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(name: str, command: Sequence[object], port: int) -> Target:
    """Start a server."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([str(part) for part in command], stdout=quiet, stderr=quiet)
    return Target(name, f"http://127.0.0.1:{port}", process, " ".join(str(part) for part in command[1:]))


def llama_server(arguments: argparse.Namespace, kind: str | None, port: int) -> list[object]:
    """Return the command of llama.cpp's server, for the model as it is or quantised again."""
    model = arguments.model
    if kind is not None:
        model = prepare.llamacpp(model, arguments.cache, Path(arguments.peers) / "bin" / "python", kind)
    command = [arguments.llama_server, "--model", model, "--port", port, "--threads", arguments.threads]
    command += ["--parallel", 32, "--kv-unified", "--ctx-size", 32 * 1024, "--batch-size", 512]
    return [*command, "--threads-batch", arguments.threads, "--cache-reuse", 0, "--no-webui"]


def start_all(arguments: argparse.Namespace) -> list[Target]:
    """Start ours and the peers' servers, and add those that run already."""
    model, threads, targets = arguments.model, arguments.threads, []
    for name in arguments.engine:
        port = free_port()
        if name in OURS:
            command = [sys.executable, "-m", "slipway_engine", "serve", model, "--port", port, *OURS[name]]
            command += ["--max-model-len", 4096, "--kv-cache-memory-bytes", 1 << 30, "--num-threads", threads]
        elif name in LLAMA_SERVERS:
            if arguments.llama_server is None or (LLAMA_SERVERS[name] and arguments.peers is None):
                print(f"{name}: left out, give --llama-server the program (and --peers, to quantise)")
                continue
            command = llama_server(arguments, LLAMA_SERVERS[name], port)
        elif arguments.peers is None:
            print(f"{name}: left out, give --peers a virtual environment that has it")
            continue
        else:
            command = [Path(arguments.peers) / "bin" / "python", "-m", "llama_cpp.server", "--model", model]
            command += ["--port", port, "--n_ctx", 4096, "--n_threads", threads, "--n_batch", 512]
            command += ["--interrupt_requests", "false"]  # else a new request ends the one that runs
        targets.append(start(name, command, port))
    for server in arguments.server:
        name, _, url = server.partition("=")
        targets.append(Target(name, url))
    return targets


async def wait(session: aiohttp.ClientSession, target: Target) -> None:
    """Wait until the server has its model."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if target.process is not None and target.process.poll() is not None:
            raise SystemExit(f"{target.name} ended with {target.process.returncode}: {target.flags}")
        try:
            async with session.get(f"{target.url}/v1/models") as response:
                if response.status == 200 and await _answers(session, target):
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit(f"{target.name} does not answer at {target.url}.")


async def _answers(session: aiohttp.ClientSession, target: Target) -> bool:
    async with session.post(
        f"{target.url}/v1/completions", json={"prompt": "a", "max_tokens": 1}
    ) as response:
        return response.status == 200


async def run(session: aiohttp.ClientSession, target: Target, job: Job, texts: list[str]) -> dict[str, float]:
    """Send a job's requests, so many at a time as it says."""
    seats = asyncio.Semaphore(job.concurrency)
    arrivals: list[float] = []
    tokens: list[list[float]] = []

    async def one(text: str, output: int) -> None:
        async with seats:
            times: list[float] = []
            arrivals.append(time.monotonic())
            tokens.append(times)
            body = {
                "prompt": text,
                "max_tokens": output,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
            async with session.post(f"{target.url}/v1/completions", json=body | {"stream": True}) as response:
                if response.status != 200:
                    raise SystemExit(f"{target.name} answered {response.status}: {await response.text()}")
                async for line in response.content:
                    if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                        times.append(time.monotonic())
            if not times:
                raise SystemExit(f"{target.name} answered {text[:40]!r}... without a token.")

    await asyncio.gather(*map(one, texts, job.outputs))
    return figures(arrivals, tokens)


async def measure(arguments: argparse.Namespace, targets: list[Target], floors: Floors) -> None:
    """Run all rounds."""
    tokenizer, vocabulary = load_tokenizer(arguments.model), words(arguments.model)
    # A connection for each request: a server that ends idle ones would end a run.
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        for target in targets:
            await wait(session, target)
        for turn in range(arguments.runs + 1):
            floors.measure()
            for name in arguments.workload:
                job = WORKLOADS[name].job(vocabulary, 1000 * turn + ord(name))
                texts = [tokenizer.decode(prompt) for prompt in job.prompts]
                for target in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
                    found = await run(session, target, job, texts)
                    for metric in METRICS[name] if turn else ():
                        target.found.setdefault((name, metric), []).append(found[metric])
                    print(f"round {turn}: {name} {target.name}", file=sys.stderr, flush=True)


def table(targets: Sequence[Target], names: Sequence[str]) -> str:
    """Return the medians, with the range of the runs."""
    columns = [(name, metric) for name in names for metric in METRICS[name]]
    lines = ["| server | " + " | ".join(f"{name} {metric}" for name, metric in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for target in targets:
        cells = []
        for column in columns:
            values = target.found[column]
            medians = [statistics.median(other.found[column]) for other in targets]
            best = max(medians) if column[1] in HIGHER_IS_BETTER else min(medians)
            median = statistics.median(values)
            shown = f"{median:.4g} ({min(values):.4g}-{max(values):.4g})"
            cells.append(f"**{shown}**" if median == best else shown)
        lines.append(f"| {target.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Start the servers, measure, print, and end them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*OURS, *LLAMA_SERVERS, "llama-cpp-python"]
    parser.add_argument("--workload", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--engine", nargs="*", choices=names, default=names)
    parser.add_argument("--server", nargs="*", default=[], metavar="NAME=URL", help="one that runs already")
    parser.add_argument("--model", type=Path, default=bundled_model(), help="a GGUF file (default: SmolLM2)")
    parser.add_argument("--runs", type=int, default=5, help="measured rounds, after one that warms up")
    parser.add_argument("--threads", type=int, default=Machine().threads())
    parser.add_argument("--peers", help="virtual environment with the peers' packages")
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's server program")
    parser.add_argument("--cache", type=Path, default=prepare.CACHE, help="where converted models are kept")
    arguments = parser.parse_args()
    floors, targets = Floors(arguments.threads), start_all(arguments)
    try:
        asyncio.run(measure(arguments, targets, floors))
    finally:
        for target in targets:
            if target.process is not None:
                target.process.terminate()
                target.process.wait()
    print(f"{processor()}, {arguments.threads} threads, load average {os.getloadavg()[0]:.1f}")
    for name, rates in floors.rates.items():
        print(f"floor: {statistics.median(rates):.4g} ({min(rates):.4g}-{max(rates):.4g}) {name}")
    for target in targets:
        print(f"{target.name}: {target.flags or target.url}")
    print(table(targets, arguments.workload))


if __name__ == "__main__":
    main()
