"""The nearest configurations that do fit, where the one asked for does not.

Candidates come in the order of how little they change what users get: fewer or shorter requests, smaller keys
and values, more memory, packed weights, more devices of the kind, another kind, and then everything at once
by price. One of each sort comes first, none that changes more than another needs, and each was checked by the
same function that refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from slipway_api.catalogue import Accelerator, Catalogue
from slipway_api.facts import ModelFacts
from slipway_api.needs import PACKED, Packing, Shape, weight_bytes
from slipway_operator.plan.footprint import Fit, Misfit, Wanted, fit
from slipway_operator.plan.placement import tensor_degrees

MAX_ALTERNATIVES: Final = 3
SHORTEST_USEFUL: Final = 512
"""Tokens below which a shorter context is no help to anybody."""
MEMORY_STEP: Final = 1 << 29
FEWER_SEQUENCES: Final = (32, 16, 4)
_DEAR: Final = Decimal(10**6)


@dataclass(frozen=True)
class Abilities:
    """What the engine in use can do, so that nothing else is proposed."""

    tensor: int = 64
    weights: tuple[Packing, ...] = ("fp8", "int8", "int4")
    kv_cache: tuple[Packing, ...] = ("fp8", "int8")


@dataclass(frozen=True)
class Alternative:
    """A configuration that fits, and the fields of the object that make it."""

    changes: tuple[tuple[str, str], ...]
    found: Fit

    def sentence(self) -> str:
        """Return the changes and what they give."""
        said = ", ".join(f"{path}: {value}" for path, value in self.changes)
        ledger, at_once = self.found.ledger, self.found.max_sequences
        return (
            f"{said} ({ledger.max_tokens} tokens of KV cache: {at_once} "
            f"request{'s' if at_once != 1 else ''} of {ledger.max_model_len} tokens at once)"
        )


def alternatives(
    facts: ModelFacts, wanted: Wanted, catalogue: Catalogue, abilities: Abilities
) -> list[Alternative]:
    """Return at most three configurations that fit, nearest first."""
    found: list[Alternative] = []
    spare: list[Alternative] = []
    sorts: set[str] = set()
    for sort, candidate in _candidates(facts, wanted, catalogue, abilities):
        if len(found) == MAX_ALTERNATIVES:
            break
        changes = _changes(wanted, candidate)
        if not changes or _holds_one_of([*found, *spare], changes):
            continue
        if sort in sorts and len(spare) >= MAX_ALTERNATIVES:
            continue
        result = fit(facts, candidate, abilities.tensor)
        if isinstance(result, Misfit) or not _useful(result, wanted):
            continue
        (spare if sort in sorts else found).append(Alternative(changes, result))
        sorts.add(sort)
    several = [*found, *spare][:MAX_ALTERNATIVES]
    return [one for one in several if not _holds_one_of([o for o in several if o is not one], one.changes)]


def _holds_one_of(found: Sequence[Alternative], changes: tuple[tuple[str, str], ...]) -> bool:
    """Return whether less would do: one that was found makes a part of these changes."""
    return any(set(one.changes) <= set(changes) for one in found)


def _candidates(
    facts: ModelFacts, wanted: Wanted, catalogue: Catalogue, abilities: Abilities
) -> Iterator[tuple[str, Wanted]]:
    yield from (
        ("sequences", replace(wanted, max_num_seqs=n)) for n in FEWER_SEQUENCES if n < wanted.max_num_seqs
    )
    yield from (("length", candidate) for candidate in _shorter(facts, wanted, abilities))
    yield from (("keys", replace(wanted, kv_cache=packing)) for packing in _smaller_keys(wanted, abilities))
    yield from (("memory", candidate) for candidate in _more_memory(facts, wanted, abilities))
    packings = _smaller_weights(facts, wanted, abilities)
    yield from (("weights", replace(wanted, weights=packing)) for packing in packings)
    yield from (("devices", replace(wanted, tensor=degree)) for degree in _degrees(facts, wanted, abilities))
    kinds = _kinds(wanted, catalogue)
    yield from (("kind", _on(kind, wanted)) for kind in kinds)
    everything = [
        replace(_on(kind, wanted), tensor=degree, weights=packing, max_model_len=length)
        for kind in (wanted.accelerator, *kinds)
        for degree in (1, *_degrees(facts, _on(kind, wanted), abilities))
        for packing in (wanted.weights, *packings)
        if _computes(kind, packing)
        for length in dict.fromkeys((wanted.max_model_len, None))
    ]
    yield from (("both", candidate) for candidate in sorted(everything, key=_price))


def _useful(found: Fit, wanted: Wanted) -> bool:
    """Refuse what fits only because nobody could use it."""
    least = min(SHORTEST_USEFUL, wanted.max_model_len or SHORTEST_USEFUL)
    return found.max_sequences >= 1 and found.ledger.max_model_len >= least


def _shorter(facts: ModelFacts, wanted: Wanted, abilities: Abilities) -> Iterator[Wanted]:
    if wanted.max_model_len is None:
        return
    result = fit(facts, replace(wanted, max_model_len=None), abilities.tensor)
    if isinstance(result, Fit):
        length = min(result.ledger.max_model_len, wanted.max_model_len - 1, facts.max_position)
        yield replace(wanted, max_model_len=length - length % 256 if length > 256 else length)


def _smaller_keys(wanted: Wanted, abilities: Abilities) -> list[Packing]:
    return [packing for packing in abilities.kv_cache if wanted.kv_cache in ("auto", "none")]


def _more_memory(facts: ModelFacts, wanted: Wanted, abilities: Abilities) -> Iterator[Wanted]:
    """Yield a larger memory limit, for a CPU's container alone: a device's memory is what it is."""
    if wanted.accelerator.resource is not None:
        return
    length = wanted.max_model_len or min(4096, facts.max_position)
    refused = fit(facts, replace(wanted, max_model_len=length), abilities.tensor)
    if isinstance(refused, Misfit) and refused.needed is not None:
        yield replace(wanted, memory=-(-refused.needed // MEMORY_STEP) * MEMORY_STEP)


def _smaller_weights(facts: ModelFacts, wanted: Wanted, abilities: Abilities) -> list[Packing]:
    """Return packings that take less than the present one, the largest (and best) first."""
    cpu = wanted.accelerator.resource is None

    def size(packing: Packing) -> int:
        return weight_bytes(facts, Shape(weights=packing, cpu=cpu))

    smaller = [
        packing
        for packing in abilities.weights
        if packing in PACKED
        and size(packing) < size(wanted.weights)
        and _computes(wanted.accelerator, packing)
    ]
    return sorted(smaller, key=size, reverse=True)


def _computes(kind: Accelerator, packing: Packing) -> bool:
    """Return whether a kind takes a packing: floats of a byte need units that know them."""
    return packing != "fp8" or "fp8" in kind.tera_flops


def _degrees(facts: ModelFacts, wanted: Wanted, abilities: Abilities) -> list[int]:
    present = wanted.tensor if isinstance(wanted.tensor, int) else 1
    most = min(abilities.tensor, 1 if wanted.accelerator.resource is None else wanted.accelerator.per_node)
    return [degree for degree in tensor_degrees(facts, most) if degree > present and wanted.mig is None]


def _kinds(wanted: Wanted, catalogue: Catalogue) -> list[Accelerator]:
    """Return the other kinds, cheapest first; of another vendor none, because the engine image is the
    same."""
    resource = wanted.accelerator.resource
    others = [
        kind
        for kind in catalogue.values()
        if kind.name != wanted.accelerator.name
        and kind.resource is not None
        and (resource is None or kind.resource == resource)
    ]
    return sorted(others, key=lambda kind: (kind.price_per_hour or _DEAR, kind.memory_mib))


def _on(kind: Accelerator, wanted: Wanted) -> Wanted:
    if kind.name == wanted.accelerator.name:
        return wanted
    return replace(wanted, accelerator=kind, mig=None)


def _price(wanted: Wanted) -> tuple[Decimal, int, int]:
    """Order by money, then by how much shorter, then by how much coarser."""
    devices = (wanted.tensor if isinstance(wanted.tensor, int) else 1) * wanted.pipeline
    each = wanted.accelerator.price_per_hour
    return (
        (_DEAR if each is None else each) * devices,
        wanted.max_model_len is None,
        ("auto", "none", "fp8", "int8", "int4").index(wanted.weights),
    )


def _changes(before: Wanted, after: Wanted) -> tuple[tuple[str, str], ...]:
    """Return what to write into the object, by path."""
    told: list[tuple[str, Any, Any]] = [
        ("accelerator.type", before.accelerator.name, after.accelerator.name),
        ("accelerator.mig", before.mig, after.mig),
        ("parallelism.tensor", before.tensor, after.tensor),
        ("quantization.weights", before.weights, after.weights),
        ("quantization.kvCache", before.kv_cache, after.kv_cache),
        ("engine.maxModelLen", before.max_model_len, after.max_model_len),
        ("engine.maxNumSeqs", before.max_num_seqs, after.max_num_seqs),
    ]
    changes = [
        (path, "none (remove it)" if new is None else str(new)) for path, old, new in told if old != new
    ]
    if before.memory != after.memory:
        changes.append(("podTemplate.resources.limits.memory", f"{after.memory >> 20}Mi"))
    return tuple(changes)
