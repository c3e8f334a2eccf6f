"""Runtime profiles: what has to be known of an engine to run it, as data.

A profile says how an engine is started, where it answers, how it leaves, and what it calls the numbers that
autoscaling reads. Everything else (sources, cache, rollout, gateway) is the same for all of them. What is
said of vLLM and SGLang was compared with the sources of vLLM 0.33.0 and SGLang 0.5.23, and a test holds it to
what was found there; only `slipway` and `custom` were run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from slipway_api import names
from slipway_api.v1alpha1 import CustomRuntime

Setting: TypeAlias = Literal[
    "served_names", "max_model_len", "max_num_seqs", "max_batch_tokens", "memory_percent", "memory_fraction",
    "prefix_caching", "drain_seconds", "tensor", "pipeline", "weights", "kv_cache",
]  # fmt: skip


@dataclass(frozen=True)
class Flag:
    """One setting on the command line, left out where it has no value.

    `first` hands over the first of several values alone; `on` and `off` are a yes-or-no setting's switches.
    """

    setting: Setting
    flag: str = ""
    first: bool = False
    on: str = ""
    off: str = ""


@dataclass(frozen=True)
class Profile:
    """One runtime.

    `command` replaces the image's entry point (empty: it stays); `arguments` stand first, `{model}`, `{host}`
    and `{port}` are replaced in them, each as one argument: no shell reads any of it. `drains` says that
    SIGTERM lets running streams finish; others end them, so their pods wait before they are told.
    `shared_memory` mounts memory at /dev/shm for the workers of one pod. `metrics` maps our names to theirs.
    """

    name: str
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    port: int = names.ENGINE_PORT
    liveness: str = "/health"
    readiness: str = "/health"
    metrics_path: str = "/metrics"
    drains: bool = False
    shared_memory: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Return whether this is Slipway's own engine: its image fetches models too, and plans its memory."""
        return self.name == SLIPWAY.name


_COMMON: Final = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prompt_tokens_total",
    "generation_tokens_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
)

SLIPWAY: Final = Profile(
    "slipway",
    arguments=("serve", "{model}", "--host", "{host}", "--port", "{port}"),
    flags=(
        Flag("served_names", "--served-model-name"),
        Flag("max_model_len", "--max-model-len"),
        Flag("max_num_seqs", "--max-num-seqs"),
        Flag("max_batch_tokens", "--max-num-batched-tokens"),
        Flag("memory_percent", "--memory-percent"),
        Flag("prefix_caching", on="--enable-prefix-caching", off="--no-enable-prefix-caching"),
        Flag("drain_seconds", "--drain-seconds"),
        Flag("weights", "--quantization"),
        Flag("kv_cache", "--kv-cache-dtype"),
    ),
    readiness="/ready",
    drains=True,
    metrics={name: f"slipway:{name}" for name in _COMMON},
)

VLLM: Final = Profile(
    "vllm",
    command=("vllm", "serve"),
    arguments=("{model}", "--host", "{host}", "--port", "{port}"),
    flags=(
        Flag("served_names", "--served-model-name"),
        Flag("max_model_len", "--max-model-len"),
        Flag("max_num_seqs", "--max-num-seqs"),
        Flag("max_batch_tokens", "--max-num-batched-tokens"),
        Flag("memory_fraction", "--gpu-memory-utilization"),
        Flag("prefix_caching", on="--enable-prefix-caching", off="--no-enable-prefix-caching"),
        Flag("tensor", "--tensor-parallel-size"),
        Flag("pipeline", "--pipeline-parallel-size"),
        Flag("weights", "--quantization"),
        Flag("kv_cache", "--kv-cache-dtype"),
    ),
    shared_memory=True,
    environment={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": "/tmp/vllm"},  # noqa: S108
    metrics={name: f"vllm:{name}" for name in _COMMON},
)

SGLANG: Final = Profile(
    "sglang",
    command=("python3", "-m", "sglang.launch_server"),
    arguments=("--model-path", "{model}", "--host", "{host}", "--port", "{port}", "--enable-metrics"),
    flags=(
        Flag("served_names", "--served-model-name", first=True),
        Flag("max_model_len", "--context-length"),
        Flag("max_num_seqs", "--max-running-requests"),
        Flag("max_batch_tokens", "--chunked-prefill-size"),
        Flag("memory_fraction", "--mem-fraction-static"),
        Flag("prefix_caching", off="--disable-radix-cache"),
        Flag("tensor", "--tp-size"),
        Flag("pipeline", "--pp-size"),
        Flag("weights", "--quantization"),
    ),
    shared_memory=True,
    environment={"HF_HUB_OFFLINE": "1"},
    metrics={name: f"sglang:{name}" for name in _COMMON}
    | {
        "num_requests_running": "sglang:num_running_reqs",
        "num_requests_waiting": "sglang:num_queue_reqs",
        "kv_cache_usage_perc": "sglang:token_usage",
    },
)

CUSTOM: Final = Profile("custom")
"""The frame of a custom runtime: everything it needs stands in `engine.custom`."""

PROFILES: Final[Mapping[str, Profile]] = {p.name: p for p in (SLIPWAY, VLLM, SGLANG, CUSTOM)}


def custom_profile(given: CustomRuntime) -> Profile:
    """Return the profile that an object describes."""
    liveness = given.health_path or "/health"
    return Profile(
        CUSTOM.name,
        command=tuple(given.command or ()),
        arguments=tuple(given.args or ()),
        port=given.port or names.ENGINE_PORT,
        liveness=liveness,
        readiness=given.ready_path or liveness,
        metrics_path=given.metrics_path or "/metrics",
        metrics=dict(given.metrics or {}),
    )


def arguments_of(profile: Profile, model: str, host: str, settings: Mapping[Setting, object]) -> list[str]:
    """Return the command line after the command. Each value is one argument of its own."""
    filled = {} if profile.name == CUSTOM.name else _filled(profile, model, host)
    arguments = [filled.get(argument, argument) for argument in profile.arguments]
    for flag in profile.flags:
        arguments += _written(flag, settings.get(flag.setting))
    return arguments


def _filled(profile: Profile, model: str, host: str) -> dict[str, str]:
    return {"{model}": model, "{host}": host, "{port}": str(profile.port)}


def _written(flag: Flag, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        switch = flag.on if value else flag.off
        return [switch] if switch else []
    if isinstance(value, tuple):
        values = value[:1] if flag.first else value
        return [flag.flag, *(str(each) for each in values)] if values else []
    return [flag.flag, str(value)]
