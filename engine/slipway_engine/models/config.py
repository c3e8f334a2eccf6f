"""What a decoder is, as one value: every family that we run is a point in this space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

RopeKind: TypeAlias = Literal["default", "linear", "llama3", "factors"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding: base and, for longer contexts, how its frequencies are scaled.

    "linear" divides all frequencies by `factor`; "llama3" only the low ones, with a ramp between the two
    bounds; "factors" divides each by its own number, as some files store it.
    """

    theta: float = 10000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A Llama-shaped decoder: pre-norm, rotary, grouped-query attention, SwiGLU.

    `windows` holds each layer's sliding window in tokens, or None for full attention. `dtype` is that of the
    checkpoint. `eos_token_ids` end a sequence.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_eps: float
    rope: RopeConfig
    tied_embeddings: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads (or of all value heads) together."""
        return self.num_kv_heads * self.head_dim

    @property
    def kv_elements_per_token(self) -> int:
        """Elements that one token keeps in one layer's KV cache."""
        return 2 * self.kv_size

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor of a checkpoint, in Hugging Face's names."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        for layer in range(self.num_layers):
            prefix = f"model.layers.{layer}."
            shapes.update((prefix + name, shape) for name, shape in self._layer_tensors().items())
        return shapes

    def parameters(self) -> int:
        """Return the number of parameters."""
        total = 0
        for shape in self.tensors().values():
            total += torch.Size(shape).numel()
        return total

    def _layer_tensors(self) -> dict[str, tuple[int, ...]]:
        hidden, inner, query, kv = self.hidden_size, self.intermediate_size, self.query_size, self.kv_size
        matrices = {
            "self_attn.q_proj": ((query, hidden), self.qkv_bias),
            "self_attn.k_proj": ((kv, hidden), self.qkv_bias),
            "self_attn.v_proj": ((kv, hidden), self.qkv_bias),
            "self_attn.o_proj": ((hidden, query), self.out_bias),
            "mlp.gate_proj": ((inner, hidden), self.mlp_bias),
            "mlp.up_proj": ((inner, hidden), self.mlp_bias),
            "mlp.down_proj": ((hidden, inner), self.mlp_bias),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        }
        for name, (shape, biased) in matrices.items():
            shapes[f"{name}.weight"] = shape
            if biased:
                shapes[f"{name}.bias"] = shape[:1]
        if self.qk_norm:
            shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (self.head_dim,)
        return shapes
