"""Does the torch path say on a GPU what it says on a CPU? For a machine that has little more than torch.

    python benchmarks/gpu/check.py [--device auto|cpu|cuda] [-o FILE]

It needs torch >= 2.11 and transformers; no web framework, no network, no model files: small models with
random weights are made on the spot. Every comparison is against this project's own float32 path on the CPU,
which the test suite holds against transformers. It prints one JSON object and exits with 1 where anything
differs. Without a GPU it says so, compares the CPU with itself (other chunks and batches) and exits with 0.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / room) for room in ("engine", "api")]

import torch  # noqa: E402
import transformers  # noqa: E402

from slipway_engine.config import EngineConfig  # noqa: E402
from slipway_engine.core.device import choose_backend  # noqa: E402
from slipway_engine.core.engine import EngineCore  # noqa: E402
from slipway_engine.core.machine import Machine  # noqa: E402
from slipway_engine.core.messages import NewRequest  # noqa: E402
from slipway_engine.core.request import Request  # noqa: E402
from slipway_engine.core.scheduler import Scheduled  # noqa: E402
from slipway_engine.kv.plan import Asked, plan  # noqa: E402
from slipway_engine.loading.checkpoint import open_model  # noqa: E402
from slipway_engine.sampling import SamplingParams  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 257, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4, "head_dim": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 5,
    "pad_token_id": 0, "initializer_range": 0.15,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen3": ("Qwen3", {}),
    "gemma2": ("Gemma2", {"sliding_window": 24, "query_pre_attn_scalar": 32}),
    "qwen3-moe": ("Qwen3Moe", EXPERTS),
    "cohere": ("Cohere", {}),
}
"""Our decoder plain, with norms of heads, with capped scores and windows, with experts; transformers' own."""

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 6e-2}
"""Root mean square of the error of all logits, relative to the logits."""
INT8_KV = 3e-2
BLOCK = 16
CHUNKS = ((40,), (17, 1, 1, 21), (1,) * 40)


@dataclass(frozen=True)
class Check:
    """One comparison."""

    model: str
    what: str
    device: str
    dtype: str
    error: float
    allowed: float
    seconds: float

    @property
    def passed(self) -> bool:
        """True where the error is within what is allowed."""
        return self.error <= self.allowed


def make(name: str, directory: Path) -> Path:
    """Save a small random model."""
    kind, extra = MODELS[name]
    torch.manual_seed(sum(map(ord, name)))
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **extra})
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(directory / name)
    return directory / name


def settings(model: Path, device: str, dtype: str, **more: Any) -> EngineConfig:
    """Return the configuration of a small engine on the torch path."""
    base: dict[str, Any] = {
        "device": device, "dtype": dtype, "cpu_backend": "torch", "block_size": BLOCK, "max_model_len": 128,
        "max_num_seqs": 4, "max_batch_tokens": 48, "kv_cache_bytes": 8 << 20,
    }  # fmt: skip
    return EngineConfig(model, **{**base, **more})


class Stepper:
    """A loaded model, stepped by hand: the runner that serves, without the scheduler."""

    def __init__(self, config: EngineConfig) -> None:
        machine = Machine()
        backend = choose_backend(config, open_model(config.model), machine)
        memory = backend.memory(machine)
        asked = Asked(config.max_model_len, 4, 48, BLOCK, config.kv_cache_bytes, 90)
        planned = plan(backend.needs(memory.baseline), asked, memory.limit, memory.available)
        self.runner: Any = backend.load(planned, BLOCK, lambda done, total: None)
        groups = len(planned.kv_windows)
        self._apart = [group * (planned.num_blocks // groups) for group in range(groups)]

    @torch.inference_mode()
    def logits(self, text: Sequence[int], chunks: Sequence[int], blocks: list[int]) -> torch.Tensor:
        """Return float32 logits of every token, fed in chunks; a chunk's last rows come one by one."""
        found, at = [], 0
        for size in chunks:
            step = []
            for place in range(at, at + size):
                step.append(Scheduled(self._request(text[: place + 1], place, blocks), 1))
            rows, logits = self.runner.run(step if size > 1 else step[:1])
            order = torch.tensor([row.request.computed for row in rows]).argsort()
            found.append(logits.float().cpu()[order])
            at += size
        return torch.cat(found)

    @torch.inference_mode()
    def last(self, text: Sequence[int], chunks: Sequence[int], blocks: list[int]) -> torch.Tensor:
        """Return the last token's logits, the text fed in whole chunks."""
        at, logits = 0, torch.empty(0)
        for size in chunks:
            request = self._request(text[: at + size], at, blocks)
            logits = self.runner.run([Scheduled(request, size)])[1].float().cpu()
            at += size
        return logits[-1]

    def cache(self, blocks: list[int]) -> torch.Tensor:
        """Return what the first layer's cache keeps."""
        attention = self.runner.attention
        own = self._tables(blocks)[attention.group_of[0]]
        cached: torch.Tensor = attention.caches[0].memory[own].float().cpu()
        return cached

    def _tables(self, blocks: list[int]) -> list[list[int]]:
        """Return a table for each group of layers; each has a part of the cache."""
        return [[apart + block for block in blocks] for apart in self._apart]

    def _request(self, tokens: Sequence[int], computed: int, blocks: list[int]) -> Request:
        return Request(
            id=str(computed), tokens=list(tokens), prompt_length=len(tokens), limit=512,
            sampling=SamplingParams(), stop_ids=frozenset(), key=(0, 0.0, computed), chain=[], stream=0,
            computed=computed, tables=self._tables(blocks), slid=[0] * len(self._apart),
        )  # fmt: skip


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the root mean square error, relative to what was expected; infinite where anything is not."""
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


def check_logits(name: str, model: Path, device: str, dtypes: Sequence[str]) -> Iterator[Check]:
    """Compare logits and cache of every chunking with those of the CPU in one piece."""
    text = torch.randint(0, 257, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    reference = Stepper(settings(model, "cpu", "float32"))
    blocks = [3, 1, 7]
    expected = reference.logits(text, CHUNKS[0], blocks)
    cached = reference.cache(blocks)
    for dtype in dtypes:
        began = time.monotonic()
        other = Stepper(settings(model, device, dtype))
        errors = [relative(other.logits(text, chunks, [2, 5, 4]), expected) for chunks in CHUNKS]
        errors += [relative(other.last(text, chunks, [6, 8, 1]), expected[-1]) for chunks in CHUNKS[:2]]
        taken = time.monotonic() - began
        yield Check(name, "logits in chunks", device, dtype, max(errors), TOLERANCE[dtype], taken)
        error = relative(other.cache([2, 5, 4]), cached)
        yield Check(name, "keys and values in the cache", device, dtype, error, TOLERANCE[dtype], taken)
        began = time.monotonic()
        packed = Stepper(settings(model, device, dtype, kv_cache_dtype="int8"))
        error = relative(packed.logits(text, CHUNKS[1], blocks), expected)
        taken = time.monotonic() - began
        yield Check(name, "logits, int8 cache", device, dtype, error, TOLERANCE[dtype] + INT8_KV, taken)


def said(config: EngineConfig, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the greedy tokens of all prompts, served together."""
    core = EngineCore(config)
    greedy = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    for name, prompt in enumerate(prompts):
        core.add_request(NewRequest(str(name), tuple(prompt), greedy, time.monotonic()))
    tokens: dict[str, list[int]] = {str(name): [] for name in range(len(prompts))}
    while core.has_work():
        for output in core.step().outputs:
            if output.error is not None:
                raise RuntimeError(output.error)
            tokens[output.request_id] += output.new_token_ids
    core.check_idle()
    return list(tokens.values())


def check_tokens(name: str, model: Path, device: str) -> Iterator[Check]:
    """Compare greedy tokens, batched, chunked, preempted and from cached prefixes, where no step is a tie."""
    generator = torch.Generator().manual_seed(4)
    prompts = [torch.randint(6, 257, (size,), generator=generator).tolist() for size in (60, 3, 30, 60, 45)]
    prompts[3][:48] = prompts[0][:48]
    reference = Stepper(settings(model, "cpu", "float32"))
    for what, tight in (("batched greedy tokens", False), ("with preemption", True)):
        began = time.monotonic()
        layer = reference.runner.attention.caches[0].memory[0].numel() * len(
            reference.runner.attention.caches
        )
        more = {"kv_cache_bytes": 12 * 4 * layer} if tight else {}
        answers = said(settings(model, device, "float32", **more), prompts)
        wrong = compared = 0
        for prompt, answer in zip(prompts, answers, strict=True):
            text = prompt + answer
            rows = reference.logits(text, [len(text)], list(range(1, 9)))[len(prompt) - 1 : -1]
            for token, row in zip(answer, rows, strict=True):
                best = row.topk(2)
                if float(best.values[0] - best.values[1]) > 1e-2:
                    compared += 1
                    wrong += token != int(best.indices[0])
        taken = time.monotonic() - began
        share = wrong / compared if compared else float("inf")
        yield Check(name, f"{what} ({compared} compared)", device, "float32", share, 0.0, taken)


def machine(device: str) -> dict[str, Any]:
    """Say where this ran."""
    found: dict[str, Any] = {
        "host": platform.node(), "system": platform.platform(), "processor": platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "device": device, "gpu": None,
    }  # fmt: skip
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda,
            "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        }  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Check; print one JSON object; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare the torch path on a GPU with the CPU's.")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the JSON there, too")
    arguments = parser.parse_args(argv)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print("no GPU takes part: the CPU is compared with itself", file=sys.stderr)
    dtypes = ("float32", "bfloat16", "float16") if device == "cuda" else ("float32", "bfloat16")
    transformers.utils.logging.disable_progress_bar()
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.models:
            model = make(name, Path(directory))
            for check in (*check_logits(name, model, device, dtypes), *check_tokens(name, model, device)):
                checks.append(check)
                verdict = "ok" if check.passed else "DIFFERS"
                print(
                    f"{check.model:10} {check.what:36} {check.dtype:9} {check.error:9.2e} of "
                    f"{check.allowed:.0e} {verdict}",
                    file=sys.stderr,
                )
    passed = all(check.passed for check in checks)
    report = {
        "machine": machine(device),
        "passed": passed,
        "checks": [{**asdict(check), "passed": check.passed} for check in checks],
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
