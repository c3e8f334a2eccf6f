"""One rank's part of a step: its stage's layers over the tokens, from the stage before to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from slipway_engine.kv.layout import KvLayout
from slipway_engine.models import context
from slipway_engine.models.attention import PagedAttention
from slipway_engine.parallel.counts import Counts
from slipway_engine.parallel.decoder import ShardedDecoder
from slipway_engine.parallel.experts import Load
from slipway_engine.parallel.shard import Part
from slipway_engine.parallel.steps import Row, Step
from slipway_engine.parallel.traffic import Links


class Stage:
    """A shard of the model on its device, with the cache of its layers."""

    def __init__(
        self,
        decoder: ShardedDecoder,
        attention: PagedAttention,
        links: Links,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        loads: Sequence[Load] = (),
    ) -> None:
        self.links = links
        self.loads = loads
        self.steps = 0
        self._decoder = decoder
        self._attention = attention
        self._block_size = block_size
        self.device = device
        self._dtype = dtype
        self._hidden = decoder.inner.config.hidden_size

    def counts(self) -> Counts:
        """Return what this rank has done so far; an expert's tokens are added up over the layers."""
        traffic, layers = self.links.traffic, [load.tokens for load in self.loads]
        return Counts(
            self.links.shard.rank,
            self.steps,
            tuple(traffic.calls.values()),
            tuple(traffic.sent.values()),
            self.loads[0].experts.start if self.loads else 0,
            tuple(map(sum, zip(*layers, strict=True))),
        )

    @torch.no_grad()
    def compute(self, step: Step) -> torch.Tensor | None:
        """Run the stage. Return this rank's columns of the logits that are wanted, from the last stage."""
        if step.copies:
            self._attention.copy_blocks(step.copies)
        contexts = [self._context(step.rows, group) for group in range(self._groups(step))]
        hidden = self._decoder.forward(
            self._input(step.rows), contexts[0].positions, self._attention.bind(*contexts)
        )
        self.steps += 1
        if not self.links.shard.last:
            self.links.send_on(hidden)
            return None
        return self._answer(step.rows, hidden)

    def _groups(self, step: Step) -> int:
        return len(step.rows[0].tables)

    def _input(self, rows: Sequence[Row]) -> torch.Tensor:
        ids = [token for row in rows for token in row.tokens]
        if not self.links.shard.first:
            return self.links.receive((len(ids), self._hidden), self._dtype)
        return self._decoder.embed(torch.tensor(ids, dtype=torch.int64, device=self.device))

    def _answer(self, rows: Sequence[Row], hidden: torch.Tensor) -> torch.Tensor | None:
        ends = np.cumsum([row.count for row in rows])
        wanted = [np.arange(end - row.rows, end) for row, end in zip(rows, ends, strict=True)]
        places = np.concatenate(wanted, dtype=np.int64)
        if not len(places):
            return None
        return self._decoder.logits(hidden[torch.from_numpy(places).to(self.device)])

    def _context(self, rows: Sequence[Row], group: int) -> context.AttentionContext:
        spans = [context.Span(row.computed, row.count, row.tables[group]) for row in rows]
        return context.build(spans, self._block_size, self.device, self._dtype)


def places_of(layout: KvLayout, layers: Part) -> list[tuple[int, int]]:
    """Return (group, place) of a stage's layers; places without a layer of the stage are left out."""
    taken: Counter[int] = Counter()
    places = []
    for group, _ in layout.places[layers.start : layers.stop]:
        places.append((group, taken[group]))
        taken[group] += 1
    return places


def layers_in_block(places: Sequence[tuple[int, int]]) -> int:
    """Return how many layers a block of a stage has places for."""
    return max(place for _, place in places) + 1


def copies_of(copies: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return {target: source} as pairs (source, target)."""
    return [(source, target) for target, source in copies.items()]
