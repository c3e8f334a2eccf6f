"""What the core asks of a loaded model, whoever computes it."""

from __future__ import annotations

from typing import Protocol

import torch

from slipway_engine.models.attention import StepAttention


class Model(Protocol):
    """Flattened tokens in, hidden states out; it knows no requests, blocks or devices."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return what `forward` takes for token ids: rows [tokens, hidden], or the ids themselves."""

    def forward(
        self, hidden: torch.Tensor, positions: torch.Tensor, attend: StepAttention, /
    ) -> torch.Tensor:
        """Run all layers and return the hidden states [tokens, hidden]."""

    def states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what embeddings are made of, in float32: rows of `forward` after the last norm."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [rows, vocabulary] of rows of `forward`, in float32."""
