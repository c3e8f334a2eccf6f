"""Whether a configuration fits: facts of a model x an accelerator x what was asked for -> a memory ledger.

Everything is estimated from headers and the catalogue before a pod exists; the engine counts again, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from slipway_api.catalogue import Accelerator
from slipway_api.device import Device, device_of
from slipway_api.facts import ModelFacts
from slipway_api.ledger import Asked, Ledger, NotEnough, divide
from slipway_api.needs import Packing, Shape, needs_of
from slipway_operator.plan.placement import IllegalDegree, Placement, place, tensor_degrees

BLOCK_SIZE: Final = 16
"""Tokens of a KV block, the engine's default."""

Tensor: TypeAlias = int | Literal["auto"]


@dataclass(frozen=True)
class Wanted:
    """A configuration to be checked. `memory` (bytes) and `cores` are those of a CPU's container."""

    accelerator: Accelerator
    mig: str | None = None
    memory: int = 0
    cores: float = 1.0
    tensor: Tensor = 1
    pipeline: int = 1
    weights: Packing = "auto"
    kv_cache: Packing = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_batch_tokens: int = 512
    memory_percent: int = 90

    @property
    def device(self) -> Device:
        """Return one device of the configuration. Raises KeyError for a MIG profile that the kind lacks."""
        return device_of(self.accelerator, mig=self.mig, memory=self.memory, cores=self.cores)


@dataclass(frozen=True)
class Fit:
    """A configuration that fits."""

    wanted: Wanted
    device: Device
    shape: Shape
    placement: Placement
    ledger: Ledger

    @property
    def max_sequences(self) -> int:
        """Return the requests of full length that run at once."""
        return self.ledger.max_sequences(self.wanted.max_num_seqs)


@dataclass(frozen=True)
class Misfit:
    """Why it does not fit, as a clause. `needed` is the least memory of one device that would do, if
    known."""

    message: str
    needed: int | None = None


def fit(facts: ModelFacts, wanted: Wanted, most_tensor: int = 64) -> Fit | Misfit:
    """Return how a configuration fits; `tensor: auto` is the least degree up to `most_tensor` that does."""
    try:
        device = wanted.device
    except KeyError:
        known = ", ".join(wanted.accelerator.mig) or "none"
        return Misfit(f"{wanted.accelerator.name} has no MIG profile {wanted.mig} (it has {known})")
    if wanted.tensor != "auto":
        return _fit(facts, wanted, device, wanted.tensor)
    result: Fit | Misfit = Misfit("no degree of parallelism is possible")
    for degree in tensor_degrees(facts, min(most_tensor, device.per_node)):
        result = _fit(facts, wanted, device, degree)
        if isinstance(result, Fit):
            return result
    return result


def _fit(facts: ModelFacts, wanted: Wanted, device: Device, tensor: int) -> Fit | Misfit:
    try:
        placement = place(facts, device, tensor, wanted.pipeline)
    except IllegalDegree as error:
        return Misfit(str(error))
    if wanted.max_model_len is not None and wanted.max_model_len > facts.max_position:
        return Misfit(
            f"engine.maxModelLen {wanted.max_model_len} is beyond the model's {facts.max_position} positions"
        )
    shape = Shape(tensor, wanted.pipeline, wanted.weights, wanted.kv_cache, device.cpu)
    asked = Asked(
        max_model_len=wanted.max_model_len,
        max_num_seqs=wanted.max_num_seqs,
        max_batch_tokens=wanted.max_batch_tokens,
        block_size=BLOCK_SIZE,
        kv_cache_bytes=None,
        memory_percent=wanted.memory_percent,
    )
    try:
        ledger = divide(needs_of(facts, shape), asked, device.memory, device.memory)
    except NotEnough as error:
        each = f" on each of {placement.accelerators} {device.name}" if placement.accelerators > 1 else ""
        return Misfit(f"{error.sums()}{each or f' on {device.name}'}", error.required)
    return Fit(wanted, device, shape, placement, ledger)
