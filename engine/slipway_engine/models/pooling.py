"""From the hidden states of a text to one vector: its last state, its first, or the mean of all.

A text may come in chunks; each is added as it is computed, and none is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch.nn.functional import normalize

PoolingMode: TypeAlias = Literal["last", "mean", "cls"]


@dataclass(frozen=True, slots=True)
class Pooling:
    """How a model's states become an embedding, `normalised` to unit length or not."""

    mode: PoolingMode
    normalised: bool = True


def pooled(states: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    """Return one vector [hidden] of the states [tokens, hidden] of a whole text."""
    pool = Pool(Pooling(mode, normalised=False))
    pool.add(states)
    return pool.vector()


class Pool:
    """One text's embedding in the making."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._vector: torch.Tensor | None = None
        self._tokens = 0

    def add(self, states: torch.Tensor) -> None:
        """Take the states [tokens, hidden] of the next chunk, after the model's last norm."""
        if self._pooling.mode == "mean":
            total = states.float().sum(dim=0)
            self._vector = total if self._vector is None else self._vector + total
        elif self._pooling.mode == "last":
            self._vector = states[-1].float()
        elif self._vector is None:
            self._vector = states[0].float()
        self._tokens += len(states)

    def vector(self) -> torch.Tensor:
        """Return the embedding [hidden] in float32; at least one token must have been added."""
        assert self._vector is not None, "no token was added"
        vector = self._vector / self._tokens if self._pooling.mode == "mean" else self._vector
        return normalize(vector, dim=0) if self._pooling.normalised else vector
