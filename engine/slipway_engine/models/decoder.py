"""The decoder: flattened tokens in, hidden states out. It knows no requests, blocks or devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import rms_norm, silu

from slipway_engine.models.attention import Attend
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.linear import Linear
from slipway_engine.models.rope import rotate_


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer; query, key and value are one product, so are gate and up."""

    attention_norm: torch.Tensor
    qkv: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Decoder:
    """A loaded model. `turns` is the rotary table for all positions that may be asked for."""

    config: DecoderConfig
    embedding: torch.Tensor
    layers: Sequence[Layer]
    norm: torch.Tensor
    head: Linear
    turns: torch.Tensor

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the input rows [tokens, hidden] of token ids."""
        return self.embedding.index_select(0, token_ids)

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Run all layers over `hidden`, which is overwritten, and return it before the last norm."""
        turns = self.turns.index_select(0, positions)
        for index, layer in enumerate(self.layers):
            self._attention(index, layer, hidden, turns, attend)
            self._mlp(layer, hidden)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [rows, vocabulary] of the rows that ask for them, in float32."""
        return self.head(self._norm(hidden, self.norm)).float()

    def _attention(
        self, index: int, layer: Layer, hidden: torch.Tensor, turns: torch.Tensor, attend: Attend
    ) -> None:
        config = self.config
        heads = layer.qkv(self._norm(hidden, layer.attention_norm)).view(hidden.shape[0], -1, config.head_dim)
        turned = config.num_heads + config.num_kv_heads
        if layer.query_norm is not None and layer.key_norm is not None:
            self._norm_heads(heads[:, : config.num_heads], layer.query_norm)
            self._norm_heads(heads[:, config.num_heads : turned], layer.key_norm)
        rotate_(heads[:, :turned], turns)
        hidden.add_(layer.out(attend(index, heads)))

    def _mlp(self, layer: Layer, hidden: torch.Tensor) -> None:
        gate, up = layer.gate_up(self._norm(hidden, layer.mlp_norm)).chunk(2, dim=1)
        hidden.add_(layer.down(silu(gate).mul_(up)))

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(rows, weight.shape, weight, self.config.rms_eps)

    def _norm_heads(self, heads: torch.Tensor, weight: torch.Tensor) -> None:
        heads.copy_(self._norm(heads, weight))
