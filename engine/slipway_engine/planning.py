"""Whether a model fits a device, from what is known without its weights, and what would where it does not.

Pure: facts and limits go in. The same ledger divides the memory here, in the engine and in the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from slipway_api.catalogue import CATALOGUE, CPU, Accelerator
from slipway_api.facts import ModelFacts
from slipway_api.ledger import MIB, Asked, Ledger, Needs, NotEnough, divide
from slipway_api.needs import Packing, Shape, needs_of
from slipway_engine.errors import InvalidArgument

_KV_PACKING: dict[str, Packing] = {
    "auto": "auto",
    "float16": "auto",
    "float32": "none",
    "bfloat16": "auto",
    "int8": "int8",
}
_LENGTHS = tuple(1 << bits for bits in range(17, 9, -1))
_WEIGHTS: tuple[Packing, ...] = ("int8", "int4")


@dataclass(frozen=True, slots=True)
class Target:
    """A device: its name, its memory in bytes, whether it is a CPU."""

    name: str
    memory: int
    cpu: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """A ledger, or why there is none; `required` is the least memory then, in bytes."""

    target: Target
    ledger: Ledger | None
    refusal: NotEnough | None

    @property
    def required(self) -> int | None:
        """Return the least memory of the device that would do, where it does not."""
        return None if self.refusal is None else self.refusal.required


def target_of(name: str, memory: int | None, machine_memory: Callable[[], int]) -> Target:
    """Return the device of a name, `cpu` or one of the catalogue's, also NAME/MIG-PROFILE."""
    if name == CPU:
        return Target(CPU, memory or machine_memory(), cpu=True)
    base, _, profile = name.partition("/")
    if base not in CATALOGUE:
        raise InvalidArgument(f"device is {name!r}; write {', '.join(sorted(CATALOGUE))}.")
    return Target(name, memory or _memory(CATALOGUE[base], profile), cpu=False)


def _memory(accelerator: Accelerator, profile: str) -> int:
    if not profile:
        return accelerator.memory_bytes
    if profile not in accelerator.mig:
        known = ", ".join(accelerator.mig) or "none"
        raise InvalidArgument(f"{accelerator.name} has no MIG profile {profile!r}; it has {known}.")
    return accelerator.memory_bytes * accelerator.mig[profile].memory_eighths // 8


def shape_of(target: Target, quantization: str, kv_cache_dtype: str) -> Shape:
    """Return how the flags lay the model out on a device."""
    weights: dict[str, Packing] = {"auto": "auto", "none": "none", "int8": "int8", "int4": "int4"}
    return Shape(weights=weights[quantization], kv_cache=_KV_PACKING[kv_cache_dtype], cpu=target.cpu)


def outcome(needs: Needs, asked: Asked, target: Target) -> Outcome:
    """Divide the device's memory; nobody else is expected on it."""
    try:
        return Outcome(target, divide(needs, asked, target.memory, target.memory), None)
    except NotEnough as error:
        return Outcome(target, None, error)


def ways_out(needs: Needs, facts: ModelFacts, shape: Shape, asked: Asked, refused: Outcome) -> Iterator[str]:
    """Yield what would fit, the smallest change first. Other modes and devices are judged by the facts."""
    target, required = refused.target, refused.required
    for length in (length for length in _LENGTHS if length < (asked.max_model_len or 0)):
        if outcome(needs, replace(asked, max_model_len=length), target).ledger is not None:
            yield f"--max-model-len {length}"
            break
    if shape.kv_cache != "int8" and _fits(facts, replace(shape, kv_cache="int8"), asked, target):
        yield "--kv-cache-dtype int8"
    for weights in _WEIGHTS:
        if shape.weights != weights and _fits(facts, replace(shape, weights=weights), asked, target):
            yield f"--quantization {weights}"
            break
    if required is not None and target.cpu:
        yield f"--memory {-(-required // MIB)}Mi"
    yield from (f"--device {name}" for name in _devices(facts, shape, asked, target))


def _devices(facts: ModelFacts, shape: Shape, asked: Asked, target: Target, most: int = 3) -> Sequence[str]:
    """Return the smallest accelerators that hold the model."""
    others = sorted(
        (one for one in CATALOGUE.values() if one.memory_bytes), key=lambda one: (one.memory_bytes, one.name)
    )
    shape = replace(shape, cpu=False)
    fitting = (
        one.name
        for one in others
        if one.name != target.name
        and _fits(facts, shape, asked, Target(one.name, one.memory_bytes, cpu=False))
    )
    return [name for name, _ in zip(fitting, range(most), strict=False)]


def _fits(facts: ModelFacts, shape: Shape, asked: Asked, target: Target) -> bool:
    return outcome(needs_of(facts, shape), asked, target).ledger is not None
