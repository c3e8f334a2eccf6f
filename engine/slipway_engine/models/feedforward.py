"""What follows attention in a layer: one gated MLP, or experts of which a few answer each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import gelu, silu

from slipway_engine.models.config import Activation, ExpertsConfig
from slipway_engine.models.linear import Linear


@dataclass(frozen=True, slots=True)
class Gated:
    """down(activation(gate) * up); gate and up are one product."""

    gate_up: Linear
    down: Linear
    activation: Activation

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the answer [tokens, hidden] to `rows`."""
        gate, up = self.gate_up(rows).chunk(2, dim=1)
        gate = silu(gate) if self.activation == "silu" else gelu(gate, approximate="tanh")
        return self.down(gate.mul_(up))


@dataclass(frozen=True, slots=True)
class Experts:
    """Routes each token to its best experts. Each expert reads all of its tokens at once."""

    config: ExpertsConfig
    router: Linear
    experts: Sequence[Gated]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of the chosen experts' answers, each times its share."""
        shares, chosen = self.route(rows)
        order = chosen.flatten().argsort(stable=True)
        tokens = order // self.config.per_token
        shares = shares.flatten()[order].unsqueeze(1)
        counts = chosen.flatten().bincount(minlength=self.config.count).tolist()
        out = torch.zeros_like(rows)
        parts = zip(torch.split(tokens, counts), torch.split(shares, counts), strict=True)
        for expert, (mine, share) in zip(self.experts, parts, strict=True):
            if len(mine):
                out.index_add_(0, mine, expert(rows.index_select(0, mine)).mul_(share))
        return out

    def route(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shares and the numbers [tokens, per_token] of the experts that answer."""
        shares, chosen = self.router(rows).float().softmax(dim=-1).topk(self.config.per_token, dim=-1)
        if self.config.normalised:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return shares.to(rows.dtype), chosen
