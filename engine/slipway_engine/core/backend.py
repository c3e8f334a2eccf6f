"""The seam below the scheduler: who holds the weights and the cache, computes a plan and samples from it.

One backend is chosen when the engine starts. Nothing above it knows the device, the type or the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch

from slipway_engine.core.machine import Machine
from slipway_engine.core.request import Request
from slipway_engine.core.sampler import Sampled
from slipway_engine.core.scheduler import Scheduled
from slipway_engine.kv.plan import MemoryPlan, Needs

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many of how many layers are loaded."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the device: what this process holds, what it may hold, what nobody holds."""

    baseline: int
    limit: int
    available: int


Answers: TypeAlias = tuple[list[Scheduled], torch.Tensor]
"""Those of a step that want logits, and their rows in the same order."""


class Ticket(Protocol):
    """A step that is on its way."""

    @property
    def rows(self) -> Sequence[Scheduled]:
        """What it computes."""


class StepRunner(Protocol):
    """A loaded model with its cache."""

    def run(self, plan: Sequence[Scheduled]) -> tuple[list[Scheduled], torch.Tensor]:
        """Compute a plan. Returns those that want logits, and their rows (float32) in the same order.

        Each has as many consecutive rows as its `rows` says.
        """

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy whole KV blocks {target: source} of all layers, before the step that reads the targets."""


@runtime_checkable
class Pipelined(Protocol):
    """A runner that takes another step before the last one has ended."""

    @property
    def depth(self) -> int:
        """How many steps should be on their way at once."""

    def submit(self, plan: Sequence[Scheduled]) -> Ticket:
        """Send a step on its way."""

    def collect(self, ticket: Ticket) -> Answers:
        """Wait for the oldest step; return what `run` does."""


class Backend(Protocol):
    """A way to run one checkpoint on one device."""

    @property
    def device(self) -> str:
        """The device's kind: cpu or cuda."""

    @property
    def dtype(self) -> str:
        """The type that it computes in, as torch names it."""

    def memory(self, machine: Machine) -> Memory:
        """Return the device's memory as of now."""

    def needs(self, baseline: int) -> Needs:
        """Return what the memory plan must know of the model on this device."""

    def load(self, memory: MemoryPlan, block_size: int, progress: Progress) -> StepRunner:
        """Read the weights and allocate the cache that was planned."""

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[Sampled]:
        """Choose the next token of each row; the logits may be overwritten."""


@runtime_checkable
class Spread(Protocol):
    """A backend whose model is computed by other processes, too."""

    def ranks(self, *, at_once: bool) -> tuple[tuple[int, ...], ...]:
        """Return what each process has done, in plain numbers; else nothing where it was told just now."""

    def close(self) -> None:
        """Let them go."""
