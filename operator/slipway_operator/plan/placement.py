"""How one replica is spread: the degrees that a model's shape allows, the accelerators and pods they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from slipway_api.degrees import cuts_evenly, listed
from slipway_api.device import Device
from slipway_api.facts import ModelFacts

MAX_DEGREE: Final = 64


class IllegalDegree(ValueError):
    """A degree of parallelism that the model's shape or the device does not allow."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A replica: `tensor` x `pipeline` accelerators (none on a CPU) in `pods` pods of the same size."""

    tensor: int
    pipeline: int
    accelerators: int
    pods: int

    @property
    def accelerators_per_pod(self) -> int:
        """Return the accelerators that each pod requests."""
        return self.accelerators // self.pods


def tensor_degrees(facts: ModelFacts, most: int) -> tuple[int, ...]:
    """Return the tensor degrees up to `most` that cut no head and no expert unevenly; 1 is always one.

    A rank holds whole heads. Key heads are divided, or where there are fewer of them than ranks, repeated
    evenly; latent keys are whole on every rank.
    """
    return tuple(degree for degree in range(1, min(most, MAX_DEGREE) + 1) if _divides(facts, degree))


def place(facts: ModelFacts, device: Device, tensor: int, pipeline: int) -> Placement:
    """Return the placement of a replica. Raises IllegalDegree with the degrees that there are."""
    if device.cpu and tensor * pipeline > 1:
        raise IllegalDegree("a replica on a CPU is one pod; remove parallelism, or write an accelerator.type")
    legal = tensor_degrees(facts, device.per_node)
    if tensor not in legal:
        raise IllegalDegree(
            f"parallelism.tensor {tensor} is not possible: {facts.heads} heads, {facts.kv_heads} key heads "
            f"and {device.per_node} {device.name} a node allow {listed(legal)}"
        )
    if pipeline > facts.layers:
        raise IllegalDegree(
            f"parallelism.pipeline {pipeline} is more than the model's {facts.layers} layers; write less"
        )
    stages = _stages_per_pod(tensor, pipeline, device.per_node)
    return Placement(
        tensor=tensor,
        pipeline=pipeline,
        accelerators=0 if device.cpu else tensor * pipeline,
        pods=pipeline // stages,
    )


def _divides(facts: ModelFacts, degree: int) -> bool:
    return cuts_evenly(degree, facts.heads, facts.kv_heads, facts.intermediate, latent=facts.latent)


def _stages_per_pod(tensor: int, pipeline: int, per_node: int) -> int:
    """Return how many stages one pod holds: as many as a node has room for, the same in every pod."""
    room = max(1, per_node // tensor)
    return max(stages for stages in range(1, min(room, pipeline) + 1) if pipeline % stages == 0)
