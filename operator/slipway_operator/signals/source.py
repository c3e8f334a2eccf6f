"""What is asked of a source of signals, and what it answers. There are two: the pods, and a Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from slipway_operator.autoscale.load import PodLoad
from slipway_operator.kinds import Key, Object


@dataclass(frozen=True)
class Asked:
    """One object's pods and what to find out.

    Attributes:
        key: the object.
        pods: its pods that are not leaving.
        names: Slipway's names of metrics to the engine's.
        port: where the pods answer, at `path`.
        first: whether the time to the first token matters.
        queries: PromQL by the name of the metric that it belongs to.
    """

    key: Key
    pods: Sequence[Object]
    names: Mapping[str, str]
    port: int
    path: str
    first: bool = False
    queries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What was found out. `problems` are sentences about what was not."""

    pods: tuple[PodLoad, ...] = ()
    ttft: float | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class Source(Protocol):
    """Finds out. `fresh_for` is how old a sample may be, in seconds."""

    fresh_for: float

    async def look(self, asked: Asked, now: float) -> Seen:
        """Return what can be found out. Raises nothing: what is not known is not in the answer."""

    async def past(self, asked: Asked, now: float) -> tuple[PodLoad, ...]:
        """Return what the pods did in the last hours, oldest first; empty where nobody kept it."""

    def forget(self, key: Key) -> None:
        """An object is gone."""

    async def close(self) -> None:
        """Give back what is held open."""
