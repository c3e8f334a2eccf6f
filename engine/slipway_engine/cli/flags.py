"""Flags that several commands share, and what they add up to; names are vLLM's where it has them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from slipway_engine.config import DEFAULT_BLOCK_SIZE, EngineConfig
from slipway_engine.sources.credentials import credential
from slipway_engine.sources.fetch import Fetch, cache_directory, fetch, is_remote

QUANTIZATIONS = ("auto", "none", "int8", "int4")
KV_CACHE_DTYPES = ("auto", "float16", "float32", "int8")


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


def degree(text: str) -> int:
    """Parse a degree of parallelism; auto is 0."""
    return 0 if text == "auto" else positive(text)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says which version of a remote model is meant, and how it may be fetched."""
    group = parser.add_argument_group("remote models")
    group.add_argument(
        "--revision",
        metavar="REV",
        help="branch, tag or commit of an hf:// source (default: main); of s3://, gs:// and oci:// the "
        "commit that `inspect` told",
    )
    group.add_argument(
        "--allow-http", action="store_true", help="allow http:// to hosts other than this machine"
    )


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the engine's limits and choices; one that is not given is None and leaves the default."""
    group = parser.add_argument_group("engine", "what is left out is decided from the model and the machine")

    def count(flag: str, text: str) -> None:
        group.add_argument(flag, type=positive, metavar="N", help=text)

    count("--max-model-len", "longest prompt + answer, in tokens")
    count("--max-num-seqs", "most sequences in one step (default: 64)")
    count("--max-num-batched-tokens", "most tokens in one step; longer prompts go in pieces (default: 512)")
    count("--max-waiting", "most sequences that wait; more are refused with 429 (default: 1024)")
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        help="keep the KV blocks of prompts for those that begin alike (default: yes)",
    )
    group.add_argument(
        "--memory-percent",
        type=percent,
        metavar="P",
        help="share of the memory limit to plan with (default: 90)",
    )
    count("--kv-cache-memory-bytes", "memory for KV blocks, in place of the share")
    count("--block-size", f"tokens in one KV block (default: {DEFAULT_BLOCK_SIZE})")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="default: auto")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: auto")
    group.add_argument(
        "--cpu-backend",
        choices=("auto", "native", "torch"),
        help="what computes on a CPU: the native library, or torch (default: auto, native where it can)",
    )
    group.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="int8: inputs of matrix products, and float weights, as bytes; int4: weights as nibbles in "
        "groups of 32, embedding and head as bytes (default: as the model is)",
    )
    group.add_argument(
        "--kv-cache-dtype",
        choices=KV_CACHE_DTYPES,
        help="type of keys and values on a CPU; int8 has a scale a token and head (default: float16)",
    )
    count("--num-threads", "compute threads of each rank (default: the CPU quota, shared)")
    group.add_argument("--seed", type=int, metavar="N", help="for requests without one (default: 0)")


def add_parallel_flags(parser: argparse.ArgumentParser) -> None:
    """Add what spreads one model over several processes, in one pod or in several."""
    group = parser.add_argument_group(
        "many accelerators", "one process a rank; a LeaderWorkerSet's environment says which pod this is"
    )
    group.add_argument(
        "--tensor-parallel-size",
        type=degree,
        metavar="N|auto",
        help="ranks that share each layer; auto: the fewest that hold the model (default: 1)",
    )
    group.add_argument(
        "--pipeline-parallel-size",
        type=positive,
        metavar="N",
        help="stages that the layers form (default: 1)",
    )
    group.add_argument(
        "--enable-expert-parallel",
        action="store_true",
        default=None,
        help="keep experts whole, on different ranks (default: cut each like other layers)",
    )
    group.add_argument(
        "--pipeline-microbatches",
        type=positive,
        metavar="N",
        help="steps on their way through the stages at once (default: as many as stages)",
    )
    group.add_argument(
        "--group-port",
        type=positive,
        metavar="PORT",
        help="where the first pod waits for others (default: 29500)",
    )
    group.add_argument(
        "--rendezvous-seconds",
        type=seconds,
        metavar="S",
        help="how long ranks wait for each other at the start (default: 600)",
    )


# The configuration's field behind each flag, where the two have different names.
_FIELDS = {
    "max_num_batched_tokens": "max_batch_tokens",
    "enable_prefix_caching": "prefix_caching",
    "kv_cache_memory_bytes": "kv_cache_bytes",
}
_SAME = (
    "max_model_len", "max_num_seqs", "max_waiting", "memory_percent", "block_size", "dtype", "device",
    "num_threads", "seed", "cpu_backend", "quantization", "kv_cache_dtype",
)  # fmt: skip
_PARALLEL = (
    "tensor_parallel_size", "pipeline_parallel_size", "enable_expert_parallel", "pipeline_microbatches",
    "group_port", "rendezvous_seconds",
)  # fmt: skip


def engine_config(arguments: argparse.Namespace, model: Path) -> EngineConfig:
    """Return the configuration that the flags ask for."""
    fields = _FIELDS | {name: name for name in _SAME}
    given = {field: getattr(arguments, flag) for flag, field in fields.items()}
    config = EngineConfig(model, **{field: value for field, value in given.items() if value is not None})
    parallel = {flag: getattr(arguments, flag, None) for flag in _PARALLEL}
    config = replace(config, **{flag: value for flag, value in parallel.items() if value is not None})
    return replace(config, tensor_parallel_size=config.tensor_parallel_size or None)


def model_path(source: str, revision: str | None, *, allow_http: bool = False) -> Path:
    """Return the model's path on this machine, fetched to the user's cache where it is remote."""
    options = Fetch(revision, credential("HF_TOKEN"), allow_http=allow_http)
    to = cache_directory(source, revision) if is_remote(source) else Path()
    return fetch(source, to, options)
