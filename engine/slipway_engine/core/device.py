"""Where the core computes, in what type and with which backend: chosen once, here, and nowhere else."""

from __future__ import annotations

import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core.backend import Backend
from slipway_engine.core.machine import Machine
from slipway_engine.core.torch_backend import TorchBackend
from slipway_engine.core.torch_models import OtherModel, OwnModel
from slipway_engine.errors import InvalidArgument
from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.loading.transformers_model import TransformersModel
from slipway_engine.native import backend as native_backend

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KV_DTYPES = {**_DTYPES, "int8": torch.int8}


def choose_backend(
    config: EngineConfig, checkpoint: Checkpoint | TransformersModel, machine: Machine
) -> Backend:
    """Return the best way to run `checkpoint` on this machine, within what the configuration asks for."""
    if (config.tensor_parallel_size, config.pipeline_parallel_size) != (1, 1):
        # Several ranks bring torch.distributed, which one can do without.
        from slipway_engine.parallel.choice import choose_parallel

        parallel = choose_parallel(config, checkpoint, machine)
        if parallel is not None:
            return parallel
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, checkpoint.config.dtype, device, machine)
    kv_dtype = choose_kv_dtype(config.kv_cache_dtype, dtype)
    if isinstance(checkpoint, TransformersModel):
        _check_modelling(config, checkpoint)
        return TorchBackend(OtherModel(checkpoint, device, dtype), device, dtype, kv_dtype)
    if checkpoint.pooling is None:
        native = native_backend.choose(config, checkpoint, device, threads_of(config, machine))
        if native is not None:
            return native
    own = OwnModel(checkpoint, device, dtype, config.quantization)
    return TorchBackend(own, device, dtype, kv_dtype)


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InvalidArgument(f"device is {name!r}; write auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("device is cuda, but torch sees no GPU; write cpu, or give the process a GPU.")
    return torch.device(name)


def choose_dtype(name: str, checkpoint: torch.dtype, device: torch.device, machine: Machine) -> torch.dtype:
    """Return the type to compute in; "auto" is the checkpoint's where the device is fast in it."""
    if name == "auto":
        if device.type == "cuda":
            return checkpoint
        fast = checkpoint is torch.bfloat16 and machine.has_cpu_flag("avx512_bf16", "amx_bf16")
        return torch.bfloat16 if fast else torch.float32
    if name not in _DTYPES:
        raise InvalidArgument(f"dtype is {name!r}; write auto, {', '.join(_DTYPES)}.")
    if name == "float16" and device.type == "cpu":
        raise InvalidArgument("dtype float16 is not supported on a CPU; write auto, float32 or bfloat16.")
    return _DTYPES[name]


def choose_kv_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type that keys and values are kept in; "auto" is the one that they are computed in."""
    if name == "auto":
        return dtype
    if name not in _KV_DTYPES:
        raise InvalidArgument(f"kv_cache_dtype is {name!r}; write auto, {', '.join(_KV_DTYPES)}.")
    return _KV_DTYPES[name]


def _check_modelling(config: EngineConfig, model: TransformersModel) -> None:
    """Refuse what transformers' own modelling cannot be asked for."""
    name = model.config.architecture
    if config.quantization not in ("auto", "none"):
        raise InvalidArgument(
            f"quantization {config.quantization} cannot be used: {name} runs in transformers' own modelling, "
            "which takes auto or none."
        )
    if config.cpu_backend == "native":
        raise InvalidArgument(
            f"cpu_backend native cannot be used: {name} runs in transformers' own modelling; write auto."
        )


def threads_of(config: EngineConfig, machine: Machine) -> int:
    """Return how many threads compute: as many as asked for, or as the cgroup's quota has processors."""
    threads = machine.threads() if config.num_threads is None else config.num_threads
    if threads < 1:
        raise InvalidArgument(f"num_threads is {threads}; it must be at least 1.")
    return threads


def set_threads(config: EngineConfig, machine: Machine) -> int:
    """Size torch's thread pool by the cgroup's quota; more threads than that fight for it."""
    threads = threads_of(config, machine)
    torch.set_num_threads(threads)
    return threads
