"""Flags that several commands share, and what they add up to; names are vLLM's where it has them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from slipway_engine.config import DEFAULT_BLOCK_SIZE, EngineConfig
from slipway_engine.sources.fetch import Fetch, cache_directory, fetch, is_remote


def positive(text: str) -> int:
    """Parse an integer above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def percent(text: str) -> int:
    """Parse a share of a hundred."""
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{value} is not between 1 and 100")
    return value


def seconds(text: str) -> float:
    """Parse a duration in seconds, zero included."""
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 86400")
    return value


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says which version of a remote model is meant, and how it may be fetched."""
    group = parser.add_argument_group("remote models")
    group.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of an hf:// source (default: main)"
    )
    group.add_argument(
        "--allow-http", action="store_true", help="allow http:// to hosts other than this machine"
    )


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the engine's limits and choices."""
    group = parser.add_argument_group("engine", "what is left out is decided from the model and the machine")
    group.add_argument(
        "--max-model-len", type=positive, metavar="N", help="longest prompt + answer, in tokens"
    )
    group.add_argument(
        "--max-num-seqs",
        type=positive,
        default=64,
        metavar="N",
        help="most sequences in one step (default: 64)",
    )
    group.add_argument(
        "--max-num-batched-tokens",
        type=positive,
        default=512,
        metavar="N",
        help="most tokens in one step; longer prompts go in pieces (default: 512)",
    )
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the KV blocks of prompts for those that begin alike (default: yes)",
    )
    group.add_argument(
        "--memory-percent",
        type=percent,
        default=90,
        metavar="P",
        help="share of the memory limit to plan with (default: 90)",
    )
    group.add_argument(
        "--kv-cache-memory-bytes",
        type=positive,
        metavar="N",
        help="memory for KV blocks, in place of the share",
    )
    group.add_argument(
        "--block-size", type=positive, default=DEFAULT_BLOCK_SIZE, metavar="N", help="tokens in one KV block"
    )
    group.add_argument(
        "--max-waiting",
        type=positive,
        default=1024,
        metavar="N",
        help="most waiting sequences (default: 1024)",
    )
    group.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: auto"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    group.add_argument(
        "--num-threads", type=positive, metavar="N", help="compute threads (default: CPU quota)"
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for requests without one (default: 0)"
    )


def engine_config(arguments: argparse.Namespace, model: Path) -> EngineConfig:
    """Return the configuration that the flags ask for."""
    return EngineConfig(
        model=model,
        max_model_len=arguments.max_model_len,
        max_num_seqs=arguments.max_num_seqs,
        max_batch_tokens=arguments.max_num_batched_tokens,
        block_size=arguments.block_size,
        kv_cache_bytes=arguments.kv_cache_memory_bytes,
        memory_percent=arguments.memory_percent,
        prefix_caching=arguments.enable_prefix_caching,
        max_waiting=arguments.max_waiting,
        dtype=arguments.dtype,
        device=arguments.device,
        num_threads=arguments.num_threads,
        seed=arguments.seed,
    )


def model_path(source: str, revision: str | None, *, allow_http: bool = False) -> Path:
    """Return the model's path on this machine, fetched to the user's cache where it is remote."""
    options = Fetch(revision, os.environ.get("HF_TOKEN"), allow_http=allow_http)
    to = cache_directory(source, revision) if is_remote(source) else Path()
    return fetch(source, to, options)
