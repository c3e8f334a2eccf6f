"""A plan in, logits out: flattens the scheduled tokens, binds the attention, runs the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from slipway_engine.core.scheduler import Scheduled
from slipway_engine.models import context
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.decoder import Decoder


class Runner:
    """A model on a device with its cache."""

    def __init__(
        self,
        decoder: Decoder,
        attention: PagedAttention,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.decoder = decoder
        self.attention = attention
        self.block_size = block_size
        self.device = device
        self.dtype = dtype

    def run(self, plan: Sequence[Scheduled]) -> tuple[list[Scheduled], torch.Tensor]:
        """Compute a step. Returns those that sample, and their logits in the same order."""
        rows = sorted(plan, key=_layout)
        spans = [context.Span(row.request.computed, row.count, row.request.blocks) for row in rows]
        step = context.build(spans, self.block_size, self.device, self.dtype)
        hidden = self.decoder.embed(self._tokens(rows))
        hidden = self.decoder.forward(hidden, step.positions, self.attention.bind(step))
        sampling = [row for row in rows if row.samples]
        if len(sampling) < len(hidden):
            lasts = np.cumsum([row.count for row in rows]) - 1
            wanted = [last for row, last in zip(rows, lasts, strict=True) if row.samples]
            hidden = hidden[torch.tensor(np.array(wanted, dtype=np.int64), device=self.device)]
        return sampling, self.decoder.logits(hidden)

    def _tokens(self, rows: Sequence[Scheduled]) -> torch.Tensor:
        ids: list[int] = []
        for row in rows:
            start = row.request.computed
            ids += row.request.tokens[start : start + row.count]
        return torch.tensor(ids, dtype=torch.int64, device=self.device)


def _layout(row: Scheduled) -> tuple[bool, int]:
    """Single tokens first, longest context first."""
    return row.count > 1, -row.request.computed
