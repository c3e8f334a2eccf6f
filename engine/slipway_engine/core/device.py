"""Where the core computes, in what type and with which kernels: chosen once, here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core import sampler
from slipway_engine.core.machine import Machine
from slipway_engine.core.request import Request
from slipway_engine.errors import InvalidArgument
from slipway_engine.models import linear
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.config import DecoderConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Backends:
    """The kernels of one device."""

    linear: linear.LinearBackend
    attention: Callable[[DecoderConfig, Sequence[torch.Tensor]], PagedAttention]
    sample: Callable[[torch.Tensor, Sequence[Request]], list[sampler.Sampled]]


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


def set_threads(config: EngineConfig, machine: Machine) -> int:
    """Size torch's thread pool by the cgroup's quota; more threads than that fight for it."""
    threads = config.num_threads or machine.threads()
    if threads < 1:
        raise InvalidArgument(f"num_threads is {threads}; it must be at least 1.")
    torch.set_num_threads(threads)
    return threads


def choose_backends(device: torch.device, dtype: torch.dtype) -> Backends:
    """Return the kernels of a device; the torch reference serves where there is nothing better."""
    return Backends(linear.best_for(device, dtype), PagedAttention, sampler.sample)


def allocate_caches(
    config: DecoderConfig, num_blocks: int, block_size: int, device: torch.device, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Return each layer's cache of zeros; on a CPU a page costs memory only once it is written."""
    shape = (num_blocks + 1, block_size, config.kv_elements_per_token)
    if device.type != "cpu":
        return [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
    size = torch.Size(shape).numel() * dtype.itemsize
    return [
        torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)
        for _ in range(config.num_layers)
    ]
