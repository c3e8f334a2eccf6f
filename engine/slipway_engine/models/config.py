"""What a decoder is, as one value: every family that we run is a point in this space."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal, Protocol, TypeAlias

import torch

RopeKind: TypeAlias = Literal["default", "linear", "llama3", "yarn", "longrope", "factors"]
Activation: TypeAlias = Literal["silu", "gelu_tanh"]
Norms: TypeAlias = Literal["pre", "post", "both"]


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """One layer's attention: how many heads, how wide, what its cache keeps of a token.

    Query head h reads key head h // (heads // kv_heads). A `window` of None sees everything before, a
    `softcap` of 0 is none.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    scale: float
    window: int | None = None
    softcap: float = 0.0

    @property
    def key_size(self) -> int:
        """Elements of a token's keys, which come first in a row of the cache."""
        return self.kv_heads * self.key_dim

    @property
    def elements(self) -> int:
        """Elements that a token keeps in this layer's cache."""
        return self.kv_heads * (self.key_dim + self.value_dim)


class ModelConfig(Protocol):
    """What serving must know of a model, whoever computes it."""

    @property
    def architecture(self) -> str:
        """Its name in Hugging Face's layout."""

    @property
    def vocab_size(self) -> int:
        """Rows of its embedding."""

    @property
    def hidden_size(self) -> int:
        """Width of its hidden states."""

    @property
    def max_position(self) -> int:
        """The longest sequence that it was made for."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its checkpoint."""

    @property
    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """Each layer's attention."""

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """Each layer's sliding window."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding: base and, for longer contexts, how its frequencies are scaled.

    "linear" divides all frequencies by `factor`; "llama3" only the low ones, with a ramp between the two
    bounds; "yarn" likewise, with bounds given as turns over the trained context; "factors" divides each by
    its own number, as some files store it; "longrope" too, and by `long_factors` where a deployment serves
    more than `original_max_position` tokens. `magnitude` multiplies what turns, a `fraction` of each head.
    """

    theta: float = 10000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float = 1.0
    fraction: float = 1.0

    def turned(self, head_dim: int) -> int:
        """Return how many elements of a head turn."""
        return int(head_dim * self.fraction)


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """A mixture of experts in place of each layer's MLP: `per_token` of `count` answer a token.

    Their shares are a softmax over all, and add up to one again where `normalised`.
    """

    count: int
    per_token: int
    normalised: bool


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A Llama-shaped decoder: rotary, grouped-query attention, a gated MLP or experts.

    `norms` says where they stand: before attention and MLP, after them, or both; `norm_offset` is added to
    their weights. `qk_norm` is one norm for all heads of a width of `head_dim`, `qk_norm_wide` one over all
    heads together. `windows` holds each layer's sliding window in tokens, or None for full attention;
    `local_rope`, where there is one, is the rotary embedding of the layers with a window. A soft cap of 0 is
    none; an `attention_scale` of 0 is 1 / sqrt(head_dim). The scales multiply embedding rows, what attention
    and MLP add to the residual, and logits. `intermediate_size` is that of one expert where there are any.
    `dtype` is that of the checkpoint. `eos_token_ids` end a sequence.
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
    qk_norm_wide: bool = False
    norms: Norms = "pre"
    norm_offset: float = 0.0
    activation: Activation = "silu"
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    logits_softcap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    experts: ExpertsConfig | None = None
    local_rope: RopeConfig | None = None
    windows: tuple[int | None, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """Each layer's window."""
        return self.windows or (None,) * self.num_layers

    @property
    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """Each layer's attention."""
        scale = self.attention_scale or 1 / sqrt(self.head_dim)
        heads, kv_heads, dim, cap = self.num_heads, self.num_kv_heads, self.head_dim, self.attention_softcap
        return tuple(
            AttentionLayer(heads, kv_heads, dim, dim, scale, window, cap) for window in self.layer_windows
        )

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

    def norm_names(self) -> tuple[str | None, str | None, str | None, str | None]:
        """Return a layer's norms before and after attention, before and after the MLP."""
        before, after = "input_layernorm.weight", "post_attention_layernorm.weight"
        if self.norms == "pre":
            return before, None, after, None
        last = "post_feedforward_layernorm.weight"
        if self.norms == "post":
            return None, after, None, last
        return before, after, "pre_feedforward_layernorm.weight", last

    def _layer_tensors(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            name: (self.hidden_size,) for name in self.norm_names() if name is not None
        }
        for name, (shape, biased) in {**self._attention_matrices(), **self._mlp_matrices()}.items():
            shapes[f"{name}.weight"] = shape
            if biased:
                shapes[f"{name}.bias"] = shape[:1]
        if self.qk_norm or self.qk_norm_wide:
            shapes["self_attn.q_norm.weight"] = (self.query_size if self.qk_norm_wide else self.head_dim,)
            shapes["self_attn.k_norm.weight"] = (self.kv_size if self.qk_norm_wide else self.head_dim,)
        return shapes

    def _attention_matrices(self) -> dict[str, tuple[tuple[int, int], bool]]:
        hidden, query, kv = self.hidden_size, self.query_size, self.kv_size
        return {
            "self_attn.q_proj": ((query, hidden), self.qkv_bias),
            "self_attn.k_proj": ((kv, hidden), self.qkv_bias),
            "self_attn.v_proj": ((kv, hidden), self.qkv_bias),
            "self_attn.o_proj": ((hidden, query), self.out_bias),
        }

    def _mlp_matrices(self) -> dict[str, tuple[tuple[int, int], bool]]:
        hidden, inner = self.hidden_size, self.intermediate_size
        parts = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
        if self.experts is None:
            return {f"mlp.{name}": (shape, self.mlp_bias) for name, shape in parts.items()}
        found = {
            f"mlp.experts.{expert}.{name}": (shape, False)
            for expert in range(self.experts.count)
            for name, shape in parts.items()
        }
        return {"mlp.gate": ((self.experts.count, hidden), False), **found}
