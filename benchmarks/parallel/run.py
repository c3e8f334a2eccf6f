"""What several ranks say to each other, against theory, and what stages lose by waiting.

    python benchmarks/parallel/run.py traffic            calls and bytes a token, for TP, PP and EP
    python benchmarks/parallel/run.py bubbles            two stages with 1 to 8 micro-batches
    python benchmarks/parallel/run.py overhead           TP 2 with a thread each against one rank with two

Everything runs on this machine's CPU over gloo, with random weights. Bytes on the wire are those of the
loopback interface in a network namespace of its own (needs root), headers included. Add --steps N for longer
runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 2048,
    "tie_word_embeddings": True, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
EXPERTS, PER_TOKEN = 8, 2
LAYOUTS = {
    "TP 2": (2, 1, False), "TP 4": (4, 1, False), "PP 2": (1, 2, False), "PP 4": (1, 4, False),
    "TP 2 x PP 2": (2, 2, False), "EP 2": (2, 1, True), "EP 4": (4, 1, True),
}  # fmt: skip
SEQUENCES, PROMPT = 16, 32
FLOAT = 4


def main() -> int:
    """Run a measurement, or, called by itself, one engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("traffic", "bubbles", "overhead", "one"))
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--layout", choices=tuple(LAYOUTS), help="of the traffic, one layout alone")
    parser.add_argument("--engine", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        print(json.dumps(one(**arguments.engine)))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        if arguments.what == "traffic":
            traffic(Path(directory), arguments.steps, arguments.layout)
        else:
            {"bubbles": bubbles, "overhead": overhead}[arguments.what](Path(directory), arguments.steps)
    return 0


def traffic(directory: Path, steps: int, only: str | None) -> None:
    """Print, a generated token: calls and bytes of rank 0, bytes on the wire of all ranks, and theory."""
    models = {False: directory / "dense", True: directory / "experts"}
    for experts, path in models.items():
        model(path, experts=experts)
    print(
        "| layout | calls a step, rank 0 | theory | bytes a token handed over, rank 0 | theory "
        "| bytes a token on the wire, all ranks | theory | of steps told |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (tensor, pipeline, expert) in LAYOUTS.items():
        if only not in (None, name):
            continue
        found = engine(
            directory=str(models[expert]), tensor=tensor, pipeline=pipeline, expert=expert,
            steps=steps, microbatches=1, threads=1, isolated=True,
        )  # fmt: skip
        tokens = found["tokens"]
        calls, handed, wire = theory(tensor, pipeline, expert)
        print(
            f"| {name} | {found['calls'] / found['steps']:.1f} | {calls} | {found['handed'] / tokens:,.0f} | "
            f"{handed:,.0f} | {found['wire'] / tokens:,.0f} | {wire:,.0f} | {found['told'] / tokens:,.0f} |",
            flush=True,
        )


def theory(tensor: int, pipeline: int, expert: bool) -> tuple[int, float, float]:
    """Return rank 0's calls a step, bytes a token that it hands over, and bytes a token that all ranks send.

    A ring sends 2 (n - 1) / n of what is summed from each of n ranks. A row that is exchanged stays with
    1 / n. Logits come from all ranks of the last stage but rank 0.
    """
    hidden, vocab = SHAPE["hidden_size"] * FLOAT, SHAPE["vocab_size"] * FLOAT
    layers = -(-SHAPE["num_hidden_layers"] // pipeline)
    answered = vocab * (tensor - 1) / tensor if pipeline == 1 else vocab
    if tensor == 1:
        sends = int(pipeline > 1)
        return sends, sends * hidden, (pipeline - 1) * hidden + answered
    away = (tensor - 1) / tensor
    if expert:
        sums = layers + 1
        exchanged = layers * (2 * PER_TOKEN * hidden + EXPERTS * 8 * tensor / SEQUENCES) / tensor
        gathered = layers * hidden / tensor
        handed = sums * hidden + exchanged + gathered
        sent = tensor * (2 * away * sums * hidden + away * exchanged + (tensor - 1) * gathered)
        return sums + 4 * layers, handed, sent + answered
    sums = 2 * layers + 1
    all_sums = 2 * SHAPE["num_hidden_layers"] + 1
    on = int(pipeline > 1)
    sent = tensor * (2 * away * all_sums * hidden + (pipeline - 1) * hidden)
    return sums + on, (sums + on) * hidden, sent + answered


def bubbles(directory: Path, steps: int) -> None:
    """Print tokens a second of two stages, and the share of the time that rank 0 waited for logits."""
    path = model(directory / "dense")
    print("| micro-batches | sequences in each | tokens/s | rank 0 waits |\n|---|---|---|---|")
    for count in range(1, 9):
        found = engine(
            directory=str(path), tensor=1, pipeline=2, expert=False, steps=steps,
            microbatches=count, threads=1,
        )  # fmt: skip
        print(
            f"| {count} | {SEQUENCES / count:.1f} | {found['tokens'] / found['seconds']:,.0f} | "
            f"{100 * found['waited'] / found['seconds']:.0f} % |",
            flush=True,
        )


def overhead(directory: Path, steps: int) -> None:
    """Print tokens a second of one rank with two threads, and of two with one each."""
    path = model(directory / "dense")
    for name, tensor, pipeline, threads in (
        ("one rank, two threads", 1, 1, 2), ("TP 2, a thread each", 2, 1, 1),
        ("PP 2, a thread each", 1, 2, 1),
    ):  # fmt: skip
        found = engine(
            directory=str(path), tensor=tensor, pipeline=pipeline, expert=False, steps=steps,
            microbatches=None, threads=threads,
        )  # fmt: skip
        print(f"| {name} | {found['tokens'] / found['seconds']:,.0f} tokens/s |", flush=True)


def model(path: Path, *, experts: bool = False) -> Path:
    """Save a model with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    mixture = {
        "num_experts": EXPERTS, "num_experts_per_tok": PER_TOKEN, "moe_intermediate_size": 256,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip
    made = (
        Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **mixture))
        if experts
        else LlamaForCausalLM(LlamaConfig(**SHAPE))
    )
    made.save_pretrained(path)
    return path


def engine(*, isolated: bool = False, **asked: Any) -> dict[str, Any]:
    """Run one engine in a process of its own, and return what it measured."""
    argv = [sys.executable, __file__, "one", "--engine", json.dumps(asked)]
    if isolated:
        argv = ["unshare", "-n", *argv]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(
    directory: str,
    tensor: int,
    pipeline: int,
    expert: bool,
    steps: int,
    microbatches: int | None,
    threads: int,
) -> dict[str, Any]:
    """Generate with an engine; count and time the steps after the prompts."""
    from slipway_engine.config import EngineConfig
    from slipway_engine.core.engine import EngineCore
    from slipway_engine.core.messages import NewRequest
    from slipway_engine.sampling import SamplingParams

    _raise_loopback()
    core = EngineCore(
        EngineConfig(
            Path(directory), dtype="float32", device="cpu", num_threads=threads, cpu_backend="torch",
            kv_cache_bytes=256 << 20, max_model_len=1024, tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline, enable_expert_parallel=expert,
            pipeline_microbatches=microbatches,
        )
    )  # fmt: skip
    params = SamplingParams(temperature=0.0, max_tokens=steps + 4)
    for number in range(SEQUENCES):
        prompt = tuple((number * 37 + place * 11) % SHAPE["vocab_size"] for place in range(PROMPT))
        core.add_request(NewRequest(f"r{number}", prompt, params, time.monotonic()))
    while core.stats().generation_tokens < 2 * SEQUENCES:
        core.step()
    spy = _Spy(core._runner)
    began, before, calls, wire = time.monotonic(), core.stats(), spy.traffic(), _wire()
    spy.told, spy.waited, spy.steps = 0, 0.0, 0
    while core.stats().generation_tokens - before.generation_tokens < steps * SEQUENCES:
        core.step()
    seconds, after = time.monotonic() - began, spy.traffic()
    found = {
        "seconds": seconds,
        "tokens": core.stats().generation_tokens - before.generation_tokens,
        "steps": max(1, spy.steps),
        "calls": after[0] - calls[0],
        "handed": after[1] - calls[1],
        "told": spy.told,
        "waited": spy.waited,
        "wire": _wire() - wire,
    }
    core.close()
    return found


class _Spy:
    """Counts the bytes that rank 0 tells, and times how long it waits. A single rank does neither."""

    def __init__(self, runner: Any) -> None:
        self.told, self.waited, self.steps = 0, 0.0, 0
        self._links = getattr(getattr(runner, "stage", None), "links", None)
        if self._links is None:
            return
        write, collect = runner._writer.write, self._links.collect_logits

        def spied(*arguments: Any) -> bytes:
            data: bytes = write(*arguments)
            self.told += len(data)
            self.steps += 1
            return data

        def timed(*arguments: Any) -> Any:
            began = time.monotonic()
            logits = collect(*arguments)
            self.waited += time.monotonic() - began
            return logits

        runner._writer.write, self._links.collect_logits = spied, timed

    def traffic(self) -> tuple[int, int]:
        """Return rank 0's calls and bytes so far."""
        if self._links is None:
            return 0, 0
        counted = self._links.traffic
        return counted.total, sum(counted.sent.values())


def _wire() -> int:
    """Return the bytes that the loopback interface of this network namespace has sent."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    fields = next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()
    return int(fields[8])


def _raise_loopback() -> None:
    """Switch the loopback interface on, which is off in a new network namespace."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name = struct.pack("16sH22s", b"lo", 0, b"")
        flags = struct.unpack("16sH22s", fcntl.ioctl(sock, 0x8913, name))[1]
        if not flags & 1 and os.geteuid() == 0:
            fcntl.ioctl(sock, 0x8914, struct.pack("16sH22s", b"lo", flags | 1, b""))


if __name__ == "__main__":
    sys.exit(main())
