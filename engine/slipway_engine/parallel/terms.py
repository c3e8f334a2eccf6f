"""On what terms ranks come together: what each says of itself, and in what words."""

from __future__ import annotations

from pathlib import Path

from slipway_engine.parallel import identity, wire
from slipway_engine.parallel.shard import Degrees

SECRET = "SLIPWAY_GROUP_SECRET"  # noqa: S105 (the name of one)
"""Names the environment variable that all pods of a group may share, so that nobody else can join."""


def introduction(
    model: Path, degrees: Degrees, rank: int, memory: tuple[int, int], secret: str
) -> wire.Hello:
    """Return what a rank says of itself; `memory` is its device's limit and what of it is available."""
    limit, available = memory
    return wire.Hello(
        protocol=wire.PROTOCOL,
        version=identity.program(),
        rank=rank,
        ranks=degrees.ranks,
        degrees=degrees_words(degrees),
        checksum=identity.checksum(model),
        limit=limit,
        available=available,
        beats=False,
        secret=secret,
    )


def degrees_words(degrees: Degrees) -> str:
    """Return the degrees as a person reads them."""
    return f"tensor {degrees.tensor} x pipeline {degrees.pipeline}" + (", expert" if degrees.expert else "")


def degrees_of(words: str) -> Degrees:
    """Return what `degrees_words` wrote."""
    numbers = [int(word) for word in words.replace(",", " ").split() if word.isdigit()]
    return Degrees(numbers[0], numbers[1], words.endswith("expert"))
