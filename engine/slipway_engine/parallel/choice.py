"""Whether a configuration asks for several ranks, and for how many: `auto` is resolved here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core.device import choose_device
from slipway_engine.core.machine import Machine
from slipway_engine.errors import DoesNotFit, InvalidArgument, ModelUnsupported
from slipway_engine.kv.plan import Asked, plan
from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.loading.transformers_model import TransformersModel
from slipway_engine.parallel.backend import ParallelBackend
from slipway_engine.parallel.build import Blueprint
from slipway_engine.parallel.shard import Degrees, tensor_degrees
from slipway_engine.parallel.view import block_unit


def choose_parallel(
    config: EngineConfig, checkpoint: Checkpoint | TransformersModel, machine: Machine
) -> ParallelBackend | None:
    """Return the backend of a group of ranks, or None where one rank is enough. Raises EngineError."""
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "group_size", "pipeline_microbatches"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InvalidArgument(f"{name} is {value}; it must be at least 1.")
    if isinstance(checkpoint, TransformersModel):
        raise ModelUnsupported(
            f"{checkpoint.config.architecture} runs in transformers' own modelling, which is not cut; "
            "leave the parallel sizes out."
        )
    if config.cpu_backend == "native":
        raise InvalidArgument("cpu_backend native computes on one rank; write auto or torch for several.")
    tensor = config.tensor_parallel_size or _least(config, checkpoint, machine)
    degrees = Degrees(tensor, config.pipeline_parallel_size, config.enable_expert_parallel)
    if degrees.ranks == 1:
        return None
    if degrees.ranks % config.group_size:
        raise InvalidArgument(
            f"{degrees.ranks} ranks cannot be divided among {config.group_size} pods; choose sizes whose "
            f"product is a multiple of {config.group_size}."
        )
    _check_devices(config, degrees)
    return ParallelBackend(replace(config, tensor_parallel_size=tensor), degrees, checkpoint)


def _check_devices(config: EngineConfig, degrees: Degrees) -> None:
    local = degrees.ranks // config.group_size
    if choose_device(config.device).type == "cuda" and local > (present := torch.cuda.device_count()):
        raise InvalidArgument(
            f"{local} ranks of a pod need a GPU each, and it has {present}; lower tensor_parallel_size or "
            "pipeline_parallel_size, or use more pods."
        )


def smallest(degrees: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the first degree that fits."""
    return next((degree for degree in degrees if fits(degree)), None)


def _least(config: EngineConfig, checkpoint: Checkpoint, machine: Machine) -> int:
    """Return the smallest degree that divides the model and fits. Ranks on one CPU share its memory: 1."""
    if config.group_size > 1:
        raise InvalidArgument(
            "tensor_parallel_size auto chooses for one pod; write the degree where a group has several."
        )
    if choose_device(config.device).type == "cpu":
        return 1
    mode = config.quantization if config.quantization in ("int8", "int4") else "none"
    unit = block_unit(checkpoint, mode)
    legal = tensor_degrees(checkpoint.config, unit, expert=config.enable_expert_parallel)
    legal = tuple(degree for degree in legal if degree <= torch.cuda.device_count())
    available, limit = torch.cuda.mem_get_info()

    def fits(degree: int) -> bool:
        degrees = Degrees(degree, config.pipeline_parallel_size, config.enable_expert_parallel)
        needs = Blueprint.of(config, degrees, 0, checkpoint).needs(limit - available)
        asked = Asked(
            config.max_model_len, config.max_num_seqs, config.max_batch_tokens, config.block_size,
            config.kv_cache_bytes, config.memory_percent,
        )  # fmt: skip
        try:
            plan(needs, asked, limit, available * config.memory_percent // 100)
        except DoesNotFit:
            return False
        return True

    return smallest(legal, fits) or legal[-1]
