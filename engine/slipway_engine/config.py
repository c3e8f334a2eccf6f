"""How an engine is to run: the values behind the command line, checked where they are used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One engine's settings. None means: decided at load time from the model and the machine.

    Attributes:
        model: a GGUF file, or a directory in Hugging Face layout (config.json, safetensors, tokenizer).
        max_model_len: longest prompt + output of one request, in tokens.
        max_num_seqs: most requests that run in one step.
        max_batch_tokens: most query tokens in one step (the budget of chunked prefill).
        block_size: tokens in one KV block.
        kv_cache_bytes: memory for KV blocks; None takes what `memory_percent` of the memory limit leaves.
        memory_percent: share of the memory limit (cgroup or device) that the engine may plan with.
        max_waiting: most requests that may wait; more are refused with 429.
        dtype: compute and weight type: "auto", "float32", "bfloat16" or "float16".
        device: "auto", "cpu" or "cuda".
        num_threads: compute threads; None takes the cgroup's CPU quota.
        cpu_backend: "auto", "native" (C++) or "torch": what computes on a CPU.
        quantization: "none" and "auto" keep the checkpoint's own values, "auto" multiplies quantised ones
            with 16-bit inputs where that is faster; "int8" multiplies in bytes, "int4" rounds weights
            to nibbles in groups of 32.
        kv_cache_dtype: "auto", "float16", "float32" or "int8": what keys and values are kept in on a CPU.
        tensor_parallel_size: ranks that share each layer; None takes the fewest that hold the model.
        pipeline_parallel_size: stages that the layers form, each on ranks of its own.
        enable_expert_parallel: whether experts stay whole, on different ranks of a stage.
        pipeline_microbatches: steps on their way through the stages at once; None takes as many as stages.
        group_size: pods that hold the ranks, each as many.
        group_port: where the first pod listens for the others.
        rendezvous_seconds: how long ranks wait for each other at the start.
        seed: base of the random streams of requests that bring no seed of their own.
    """

    model: Path
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_batch_tokens: int = 512
    block_size: int = DEFAULT_BLOCK_SIZE
    kv_cache_bytes: int | None = None
    memory_percent: int = 90
    prefix_caching: bool = True
    max_waiting: int = 1024
    dtype: str = "auto"
    device: str = "auto"
    num_threads: int | None = None
    seed: int = 0
    cpu_backend: str = "auto"
    quantization: str = "auto"
    kv_cache_dtype: str = "auto"
    tensor_parallel_size: int | None = 1
    pipeline_parallel_size: int = 1
    enable_expert_parallel: bool = False
    pipeline_microbatches: int | None = None
    group_size: int = 1
    group_port: int = 29500
    rendezvous_seconds: float = 600.0
