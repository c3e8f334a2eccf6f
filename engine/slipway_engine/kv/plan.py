"""The engine's memory plan: its own exact sizes through the ledger that the operator plans with, too."""

from __future__ import annotations

from typing import TypeAlias

from slipway_api.ledger import MIB, OTHER_PROCESS, Asked, Ledger, Needs, NotEnough, divide, mib
from slipway_engine.errors import DoesNotFit

__all__ = ["BESIDES", "GROWTH", "MIB", "Asked", "MemoryPlan", "Needs", "plan"]

MemoryPlan: TypeAlias = Ledger

GROWTH = 64 * MIB
"""What a core takes once it computes, beside what it allocates on purpose: threads' stacks, buffers of
libraries at their first use, what allocators keep, requests and answers (measured: up to 30 MiB)."""

BESIDES = OTHER_PROCESS + GROWTH
"""What the limit of a CPU's engine must hold beside its core as it was when the plan was made."""


def plan(needs: Needs, asked: Asked, limit: int, available: int) -> MemoryPlan:
    """Divide the memory; raises `DoesNotFit` with the sum and the way out."""
    try:
        return divide(needs, asked, limit, available)
    except NotEnough as error:
        raise DoesNotFit(refusal(error)) from error


def refusal(error: NotEnough) -> str:
    """Return the sum that does not fit, and what to do about it, as one sentence."""
    if error.hopeless:
        way = "raise the memory limit or serve a smaller model"
    else:
        way = "lower --max-model-len, --max-num-seqs or --max-num-batched-tokens, or raise the memory limit"
    terms = " + ".join(f"{mib(size)} {name}" for name, size in error.parts.items())
    return (
        f"The model does not fit: {terms} = {mib(error.total)}, but {mib(error.usable)} of the limit of "
        f"{mib(error.limit)} are usable; {way} to at least {mib(error.required)}."
    )
