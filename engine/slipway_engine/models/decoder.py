"""The decoder: flattened tokens in, hidden states out. It knows no requests, blocks or devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import rms_norm

from slipway_engine.models.attention import Attend
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.linear import Linear
from slipway_engine.models.rope import rotate_


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer; query, key and value are one product. A norm that is not there is None."""

    attention_norm: torch.Tensor | None
    qkv: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    out: Linear
    attention_post_norm: torch.Tensor | None
    mlp_norm: torch.Tensor | None
    mlp: Linear
    mlp_post_norm: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Decoder:
    """A loaded model. `turns` is the rotary table for all positions that may be asked for.

    `local_turns` is that of the layers with a window, where they have one of their own.
    """

    config: DecoderConfig
    embedding: torch.Tensor
    layers: Sequence[Layer]
    norm: torch.Tensor
    head: Linear
    turns: torch.Tensor
    local_turns: torch.Tensor | None = None

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the input rows [tokens, hidden] of token ids."""
        rows = self.embedding.index_select(0, token_ids)
        if self.config.embedding_scale == 1:
            return rows
        # Rounded to the model's type first, as the models were trained.
        return rows.mul_(torch.tensor(self.config.embedding_scale, dtype=rows.dtype))

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Run all layers over `hidden`, which is overwritten, and return it before the last norm."""
        turns = self.turns.index_select(0, positions)
        local = turns if self.local_turns is None else self.local_turns.index_select(0, positions)
        windows = self.config.layer_windows
        for index, layer in enumerate(self.layers):
            self._attention(index, layer, hidden, local if windows[index] else turns, attend)
            rows = layer.mlp(self._norm(hidden, layer.mlp_norm))
            self._add(hidden, rows, layer.mlp_post_norm)
        return hidden

    def states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what embeddings are made of, in float32: rows of `forward` after the last norm."""
        return self._norm(hidden, self.norm).float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [rows, vocabulary] of the rows that ask for them, in float32."""
        logits = self.head(self._norm(hidden, self.norm)).float()
        if self.config.logits_scale != 1:
            logits = logits.mul_(self.config.logits_scale)
        cap = self.config.logits_softcap
        return logits.div_(cap).tanh_().mul_(cap) if cap else logits

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
        self._add(hidden, layer.out(attend(index, heads)), layer.attention_post_norm)

    def _add(self, hidden: torch.Tensor, rows: torch.Tensor, norm: torch.Tensor | None) -> None:
        hidden.add_(self._norm(rows, norm), alpha=self.config.residual_scale)

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if weight is None:
            return rows
        if weight.dtype == rows.dtype:
            return rms_norm(rows, weight.shape, weight, self.config.rms_eps)
        return rms_norm(rows.to(weight.dtype), weight.shape, weight, self.config.rms_eps).to(rows.dtype)

    def _norm_heads(self, heads: torch.Tensor, weight: torch.Tensor) -> None:
        """Norm each head, or all heads of a token together where the weight is that wide."""
        rows = heads if len(weight) == self.config.head_dim else heads.flatten(1)
        heads.copy_(self._norm(rows, weight).view(heads.shape))
