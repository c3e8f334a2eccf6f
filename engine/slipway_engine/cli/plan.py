"""`slipway-engine plan`: the memory ledger of a model on a device, without loading the model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from slipway_api.catalogue import CPU
from slipway_api.facts import FactsError, ModelFacts
from slipway_api.ledger import Asked, Ledger, Needs, mib
from slipway_api.needs import needs_of
from slipway_api.quantity import quantity_bytes
from slipway_engine.cli.flags import add_source_flags, percent, positive
from slipway_engine.config import DEFAULT_BLOCK_SIZE, EngineConfig
from slipway_engine.errors import DoesNotFit, ModelUnsupported
from slipway_engine.kv.plan import refusal
from slipway_engine.planning import Outcome, Target, outcome, shape_of, target_of, ways_out
from slipway_engine.sources.credentials import credential
from slipway_engine.sources.fetch import Fetch, is_remote
from slipway_engine.sources.inspect import inspect
from slipway_engine.sources.trust import trust_bundle

_ABOUT = """\
Divide a device's memory into process, weights, workspace and KV cache, as the engine does when it starts.

Nothing but headers is read: of an hf:// or https:// source over HTTP ranges, of a local model from its files.
For a CPU and a local model the sizes are the engine's own, exact; else they are expected ones."""

_EXAMPLES = """\
examples:
  slipway-engine plan ./SmolLM2-135M-Instruct.Q4_1.gguf --memory 2Gi
  slipway-engine plan hf://Qwen/Qwen3-8B --device nvidia-l4-24gb --max-model-len 16384
  slipway-engine plan hf://Qwen/Qwen3-8B --device nvidia-a100-80gb/2g.20gb -o json"""


def quantity(text: str) -> int:
    """Parse an amount of memory, such as 24Gi."""
    try:
        size = quantity_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text} is no memory at all")
    return size


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="what of a model fits a device",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="GGUF file, model directory, or source")
    parser.add_argument(
        "--device", default=CPU, metavar="NAME", help="cpu, or an accelerator's name in the catalogue"
    )
    parser.add_argument(
        "--memory",
        type=quantity,
        metavar="SIZE",
        help="its memory, such as 24Gi (default: this machine's limit, or the accelerator's)",
    )
    parser.add_argument(
        "--memory-percent", type=percent, default=90, metavar="P", help="share to plan with (default: 90)"
    )
    for flag, default, text in (
        ("--max-model-len", None, "longest prompt + answer, in tokens (default: the longest that fits)"),
        ("--max-num-seqs", 64, "most sequences in one step (default: 64)"),
        ("--max-num-batched-tokens", 512, "most tokens in one step (default: 512)"),
        ("--block-size", DEFAULT_BLOCK_SIZE, f"tokens in one KV block (default: {DEFAULT_BLOCK_SIZE})"),
    ):
        parser.add_argument(flag, type=positive, default=default, metavar="N", help=text)
    parser.add_argument("--quantization", choices=("auto", "none", "int8", "int4"), default="auto")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "float16", "float32", "int8"), default="auto")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    add_source_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Plan; print the ledger. Raises DoesNotFit after printing where it does not fit."""
    target = target_of(arguments.device, arguments.memory, _machine_memory)
    facts = _facts(arguments)
    shape = shape_of(target, arguments.quantization, arguments.kv_cache_dtype)
    exact = target.cpu and not is_remote(arguments.model)
    needs = _exact(arguments) if exact else needs_of(facts, shape)
    asked = Asked(
        arguments.max_model_len,
        arguments.max_num_seqs,
        arguments.max_num_batched_tokens,
        arguments.block_size,
        None,
        arguments.memory_percent,
    )
    found = outcome(needs, asked, target)
    ways = [] if found.ledger else list(ways_out(needs, facts, shape, asked, found))
    if arguments.output == "json":
        print(json.dumps(_as_json(arguments, facts, found, ways, exact), indent=2))
    elif found.ledger is not None:
        _table(arguments, facts, found.ledger, target, exact)
    if found.refusal is not None:
        sentence = refusal(found.refusal)
        raise DoesNotFit(f"{sentence} Would fit: {'; '.join(ways)}." if ways else sentence)
    return 0


def _facts(arguments: argparse.Namespace) -> ModelFacts:
    trust_bundle()
    options = Fetch(
        arguments.revision,
        credential("HF_TOKEN"),
        token_for_https=True,
        allow_http=arguments.allow_http,
    )
    try:
        return inspect(arguments.model, options).facts
    except FactsError as error:
        raise ModelUnsupported(f"{arguments.model}: {error}") from error


def _exact(arguments: argparse.Namespace) -> Needs:
    """Return what the engine itself counts, once it has opened the files."""
    from slipway_engine.core.device import choose_backend
    from slipway_engine.core.machine import Machine
    from slipway_engine.loading.checkpoint import open_model
    from slipway_engine.sources.fetch import local_path

    path = Path(local_path(arguments.model))
    config = EngineConfig(
        path,
        device="cpu",
        block_size=arguments.block_size,
        max_num_seqs=arguments.max_num_seqs,
        quantization=arguments.quantization,
        kv_cache_dtype=arguments.kv_cache_dtype,
    )
    machine = Machine()
    backend = choose_backend(config, open_model(path), machine)
    return backend.needs(backend.memory(machine).baseline)


def _machine_memory() -> int:
    from slipway_engine.core.machine import Machine

    return Machine().memory_limit()


def _as_json(
    arguments: argparse.Namespace, facts: ModelFacts, found: Outcome, ways: list[str], exact: bool
) -> dict[str, Any]:
    """Return sizes in bytes, lengths in tokens."""
    answer: dict[str, Any] = {
        "model": arguments.model,
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "device": found.target.name,
        "memory": found.target.memory,
        "exact": exact,
        "fits": found.ledger is not None,
    }
    if found.ledger is not None:
        ledger = found.ledger
        answer |= {
            "usable": ledger.usable,
            "process": ledger.baseline,
            "weights": ledger.weights,
            "workspace": ledger.workspace,
            "kvCache": ledger.kv_cache,
            "maxModelLen": ledger.max_model_len,
            "maxTokens": ledger.max_tokens,
            "maxSequences": ledger.max_sequences(arguments.max_num_seqs),
        }
    elif found.refusal is not None:
        answer |= {"required": found.refusal.required, "parts": found.refusal.parts, "wouldFit": ways}
    return answer


def _blocks(ledger: Ledger) -> str:
    text = f"{ledger.num_blocks} blocks of {ledger.block_size} tokens"
    groups = len(ledger.kv_windows)
    return text if groups == 1 else f"{text} in one of {groups} groups of layers"


def _table(
    arguments: argparse.Namespace, facts: ModelFacts, ledger: Ledger, target: Target, exact: bool
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    kind = "as the engine counts it" if exact else "expected, from headers"
    table = Table(
        title=f"{facts.architecture}, {facts.parameters / 1e9:.2f}B parameters, on {target.name} ({kind})",
        title_justify="left",
    )
    table.add_column("part")
    table.add_column("memory", justify="right")
    table.add_column("share", justify="right")
    free = ledger.usable - ledger.baseline - ledger.weights - ledger.workspace - ledger.kv_cache
    for name, size in (
        ("process", ledger.baseline),
        ("weights", ledger.weights),
        ("workspace of a step, or of loading", ledger.workspace),
        (f"KV cache ({_blocks(ledger)})", ledger.kv_cache),
        ("left over", free),
        (f"kept free ({100 - arguments.memory_percent} %)", target.memory - ledger.usable),
    ):
        table.add_row(name, mib(size), f"{100 * size / target.memory:.1f} %")
    table.add_section()
    table.add_row("memory", mib(target.memory), "100 %")
    console.print(table)
    sequences = ledger.max_sequences(arguments.max_num_seqs)
    console.print(
        f"Requests of up to {ledger.max_model_len} tokens; {ledger.max_tokens} tokens of all together, "
        f"so {sequences} of full length at once.",
        soft_wrap=True,
    )
