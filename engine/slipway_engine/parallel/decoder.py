"""A rank's share of a decoder: the layers of its stage, of each the heads and columns that it holds.

Products that read cut columns give parts of a sum, which is made over the stage's ranks right after them:
twice a layer. The embedding and the head are cut by words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from slipway_engine.models.attention import Attend
from slipway_engine.models.decoder import Decoder
from slipway_engine.models.linear import Linear
from slipway_engine.parallel.shard import Part
from slipway_engine.parallel.traffic import Links


@dataclass(frozen=True, slots=True)
class Reduced:
    """A product whose sum is spread over the ranks of a stage."""

    linear: Linear
    links: Links

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the whole sum [tokens, out]."""
        return self.links.all_reduce(self.linear(rows))


class ShardedDecoder:
    """`inner` computes the shard as if it were a small model; what belongs to several ranks is added here."""

    def __init__(self, inner: Decoder, words: Part, links: Links) -> None:
        self.inner = inner
        self._words = words
        self._links = links

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the input rows [tokens, hidden]: each word's row is on one rank, the others add zero."""
        if self._links.shard.degrees.tensor == 1:
            return self.inner.embed(token_ids)
        here = token_ids - self._words.start
        elsewhere = (here < 0) | (here >= self._words.size)
        rows = self.inner.embed(here.masked_fill_(elsewhere, 0))
        return self._links.all_reduce(rows.masked_fill_(elsewhere.unsqueeze(1), 0))

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Run the stage's layers over `hidden`, which is overwritten."""
        return self.inner.forward(hidden, positions, attend)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return this rank's columns of the logits, in float32."""
        return self.inner.logits(hidden)
