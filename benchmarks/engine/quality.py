"""What each engine's mode costs in quality: the same text through all, beside the checkpoint in float32.

    python benchmarks/engine/quality.py --peers DIR     # a virtual environment with the peers' packages
    python benchmarks/engine/quality.py --engine slipway slipway-int8 --tokens 2000
    python benchmarks/engine/quality.py --unpacked      # every engine quantises the values by itself

Each engine lives in a process of its own and gives the logits of every position; the reference is our torch
path, float32 all through. The text is read in windows, each by all engines side by side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import prepare
import torch
from logits import ENGINES
from machine import bundled_model

from slipway_engine.core.machine import Machine
from slipway_engine.evaluation import Comparison, Yardstick, windows
from slipway_engine.tokenizer.load import load_tokenizer

HERE = Path(__file__).parent


@dataclass
class Source:
    """An engine's process, asked for logits."""

    name: str
    process: subprocess.Popen[bytes]
    description: str = ""
    vocabulary: int = 0
    comparison: Comparison = field(default_factory=Comparison)

    @classmethod
    def start(cls, name: str, python: Path, model: Path, threads: int, context: int) -> Source:
        """Start it."""
        command = [python, HERE / "logits.py", name, model, threads, context]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [str(part) for part in command], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
        )
        return cls(name, process)

    def ready(self) -> bool:
        """Wait until the model is loaded; return False where its package is missing."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            command = " ".join(map(str, self.process.args))  # type: ignore[arg-type]
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}: run {command}")
        hello = json.loads(line)
        if "absent" in hello:
            print(f"{self.name}: left out, {hello['absent']}")
            return False
        self.description, self.vocabulary = hello["engine"], hello["vocabulary"]
        return True

    def ask(self, text: Sequence[int]) -> None:
        """Let it read a text, which `logits` waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(text)).encode() + b"\n")
        self.process.stdin.flush()

    def logits(self, length: int) -> torch.Tensor:
        """Return float32 [length, vocabulary] of the text that was asked."""
        assert self.process.stdout is not None
        rows = np.empty((length, self.vocabulary), dtype=np.float32)
        left = memoryview(rows).cast("B")
        while left:
            count = self.process.stdout.readinto(left)
            if not count:
                raise SystemExit(f"{self.name} ended with status {self.process.wait()}.")
            left = left[count:]
        return torch.from_numpy(rows)

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start(arguments: argparse.Namespace) -> tuple[Source, list[Source]]:
    """Start the reference and every engine that was asked for and is there."""
    here, peers = Path(sys.executable), arguments.peers and Path(arguments.peers) / "bin" / "python"
    ours = prepare.hugging_face(arguments.model, arguments.cache) if arguments.unpacked else arguments.model
    reference = Source.start("reference", here, ours, arguments.threads, arguments.context)
    sources = []
    for name in arguments.engine:
        python, model = here, ours
        if not name.startswith("slipway"):
            python = here if name == "transformers" else peers or here
            model = prepare.for_peer(name, arguments.model, arguments.cache, peers)
        if model is not None:
            sources.append(Source.start(name, python, model, arguments.threads, arguments.context))
    if not reference.ready():
        raise SystemExit("The reference needs slipway's own environment.")
    sources = [source for source in sources if source.ready()]
    for source in sources:
        if source.vocabulary != reference.vocabulary:
            raise SystemExit(f"{source.name} has {source.vocabulary} logits, not {reference.vocabulary}.")
    return reference, sources


def table(sources: Sequence[Source]) -> str:
    """Return the figures, the best KL first."""
    lines = ["| engine | KL, nats | KL, p99 | same top token | perplexity |", "|---|---|---|---|---|"]
    for source in sorted(sources, key=lambda source: source.comparison.result().kl):
        found = source.comparison.result()
        lines.append(
            f"| {source.name} | {found.kl:.3g} ± {found.kl_error:.1g} | {found.kl_p99:.3g} "
            f"| {found.top1_agreement:.2%} | {found.perplexity:.4f} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Return the command line's choices."""
    names = [name for name in ENGINES if name != "reference"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", nargs="+", choices=names, default=names)
    parser.add_argument("--model", type=Path, default=bundled_model(), help="a GGUF file (default: SmolLM2)")
    parser.add_argument("--unpacked", action="store_true", help="give ours the values as float32 safetensors")
    parser.add_argument("--text", type=Path, default=HERE / "text" / "tom-sawyer.txt")
    parser.add_argument("--tokens", type=int, help="of the text, from its start (default: all)")
    parser.add_argument("--context", type=int, default=512, help="tokens of a window")
    parser.add_argument("--threads", type=int, default=Machine().threads())
    parser.add_argument("--peers", help="virtual environment with the peers' packages")
    parser.add_argument("--cache", type=Path, default=prepare.CACHE)
    return parser.parse_args()


def main() -> None:
    """Compare everything and print the table."""
    arguments = parse()
    tokens = load_tokenizer(arguments.model).encode(arguments.text.read_text())[: arguments.tokens]
    reference, sources = start(arguments)
    texts = list(windows(tokens, arguments.context))
    for number, text in enumerate(texts, 1):
        for source in (reference, *sources):
            source.ask(text)
        yardstick, targets = Yardstick.of(reference.logits(len(text))[:-1]), text[1:]
        for source in sources:
            source.comparison.add(source.logits(len(text))[:-1], yardstick, targets)
        print(f"window {number} of {len(texts)}", file=sys.stderr, flush=True)
    scored = sum(len(text) - 1 for text in texts)
    print(f"{arguments.text.name}: {scored} tokens scored, in windows of {arguments.context}")
    print(f"reference: {reference.description}, {arguments.model.name}")
    for source in sources:
        print(f"{source.name}: {source.description}")
    print(f"reference perplexity: {sources[0].comparison.result().reference_perplexity:.4f}")
    print(table(sources))
    for source in (reference, *sources):
        source.stop()


if __name__ == "__main__":
    main()
