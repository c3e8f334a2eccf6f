"""A plan in, logits out: flattens the scheduled tokens, binds the attention, runs the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from slipway_engine.core.scheduler import Scheduled
from slipway_engine.models import context
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.model import Model


class Runner:
    """A model on a device with its cache. With `states` it answers with hidden states in place of logits."""

    def __init__(
        self,
        decoder: Model,
        attention: PagedAttention,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        states: bool = False,
    ) -> None:
        self.decoder = decoder
        self.answer = decoder.states if states else decoder.logits
        self.attention = attention
        self.block_size = block_size
        self.device = device
        self.dtype = dtype

    @torch.no_grad()
    def run(self, plan: Sequence[Scheduled]) -> tuple[list[Scheduled], torch.Tensor]:
        """Compute a step. Returns those that want logits, and their rows in the same order."""
        rows = sorted(plan, key=layout)
        steps = [self._context(rows, group) for group in range(self.attention.groups)]
        hidden = self.decoder.embed(self._tokens(rows))
        hidden = self.decoder.forward(hidden, steps[0].positions, self.attention.bind(*steps))
        ends = np.cumsum([row.count for row in rows])
        wanted = [np.arange(end - row.rows, end) for row, end in zip(rows, ends, strict=True)]
        places = np.concatenate(wanted, dtype=np.int64)
        if len(places) < len(hidden):
            hidden = hidden[torch.from_numpy(places).to(self.device)]
        return [row for row in rows if row.rows], self.answer(hidden)

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy whole blocks {target: source}, before a step."""
        self.attention.copy_blocks([(source, target) for target, source in copies.items()])

    def _context(self, rows: Sequence[Scheduled], group: int) -> context.AttentionContext:
        """Lay out the step for a group of layers, which has tables of its own."""
        spans = [context.Span(row.request.computed, row.count, row.request.tables[group]) for row in rows]
        return context.build(spans, self.block_size, self.device, self.dtype)

    def _tokens(self, rows: Sequence[Scheduled]) -> torch.Tensor:
        ids: list[int] = []
        for row in rows:
            start = row.request.computed
            ids += row.request.tokens[start : start + row.count]
        return torch.tensor(ids, dtype=torch.int64, device=self.device)


def layout(row: Scheduled) -> tuple[bool, int]:
    """Return the key by which a step's rows are sorted: single tokens first, longest context first."""
    return row.count > 1, -row.request.computed
