"""From a checkpoint to a `Decoder`: query, key and value fused, gate and up fused, all packed.

One matrix is in memory twice at a time: as it was read, and packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.decoder import Decoder, Layer
from slipway_engine.models.feedforward import Experts, Gated
from slipway_engine.models.linear import Linear, LinearBackend
from slipway_engine.models.quantised import Quantised
from slipway_engine.models.rope import pair_up, rotations

_EDGES = ("model.embed_tokens.weight", "lm_head.weight")


def load(
    checkpoint: Checkpoint,
    linear: LinearBackend,
    device: torch.device,
    dtype: torch.dtype,
    max_positions: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    rounding: Quantised | None = None,
) -> Decoder:
    """Read all weights, layer by layer, and report each layer to `progress`.

    With `rounding` matrices of floats become what that mode keeps of them; packed ones stay as they are.
    """
    config = checkpoint.config
    loader = Loader(checkpoint, linear, device, dtype, rounding)
    embedding = loader.rounded(["model.embed_tokens.weight"])
    layers = []
    for index in range(config.num_layers):
        layers.append(loader.layer(index))
        progress(index + 1, config.num_layers)
    head = linear(embedding, None) if config.tied_embeddings else loader.matrix(["lm_head"], False)
    norm = loader.norm("model.norm.weight")
    turns = rotations(config.rope, config.head_dim, max_positions).to(device)
    if config.local_rope is None:
        return Decoder(config, embedding, layers, norm, head, turns)
    local = rotations(config.local_rope, config.head_dim, max_positions).to(device)
    return Decoder(config, embedding, layers, norm, head, turns, local)


class Loader:
    """Reads a checkpoint's tensors as the parts of a decoder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        linear: LinearBackend,
        device: torch.device,
        dtype: torch.dtype,
        rounding: Quantised | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.config: DecoderConfig = checkpoint.config
        self.linear = linear
        self.device = device
        self.dtype = dtype
        self.rounding = rounding

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor."""
        return self.stacked([name])

    def stacked(self, names: Sequence[str]) -> torch.Tensor:
        """Read tensors one below the other into one."""
        shapes = [self.checkpoint.shapes[name] for name in names]
        whole = torch.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), dtype=self.dtype)
        for name, part in zip(names, torch.split(whole, [shape[0] for shape in shapes]), strict=True):
            self.checkpoint.read_into(name, part)
            if name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
                part.copy_(self.paired(part))
        return whole.to(self.device)

    def matrix(self, names: Sequence[str], biased: bool) -> Linear:
        """Read matrices one below the other into one product."""
        bias = self.stacked([f"{name}.bias" for name in names]) if biased else None
        return self.linear(self.rounded([f"{name}.weight" for name in names]), bias)

    def rounded(self, names: Sequence[str]) -> torch.Tensor:
        """Read matrices into one, as the mode keeps them: embedding and head never in less than 8 bits."""
        if self.rounding is None:
            return self.stacked(names)
        rounding = Quantised("int8") if names[0] in _EDGES else self.rounding
        kinds = {self.checkpoint.stored_type(name) for name in names}
        if len(kinds) == 1 and kinds <= rounding.kept:
            return self.stacked(names)
        return rounding(self.stacked(names))

    def layer(self, index: int) -> Layer:
        """Read a layer."""
        config, prefix = self.config, f"model.layers.{index}."
        attention = prefix + "self_attn."
        norms = [None if name is None else self.norm(prefix + name) for name in config.norm_names()]
        return Layer(
            attention_norm=norms[0],
            qkv=self.matrix([attention + f"{part}_proj" for part in "qkv"], config.qkv_bias),
            query_norm=self.head_norm(attention + "q_norm.weight"),
            key_norm=self.head_norm(attention + "k_norm.weight"),
            out=self.matrix([attention + "o_proj"], config.out_bias),
            attention_post_norm=norms[1],
            mlp_norm=norms[2],
            mlp=self.mlp(prefix + "mlp."),
            mlp_post_norm=norms[3],
        )

    def mlp(self, prefix: str) -> Linear:
        """Read what follows attention: one MLP, or a router and its experts."""
        experts = self.config.experts
        if experts is None:
            return self.gated(prefix)
        router = self.linear(self.stacked([prefix + "gate.weight"]), None)
        return Experts(experts, router, [self.gated(f"{prefix}experts.{n}.") for n in range(experts.count)])

    def gated(self, prefix: str) -> Gated:
        """Read one gated MLP."""
        config = self.config
        gate_up = self.matrix([prefix + "gate_proj", prefix + "up_proj"], config.mlp_bias)
        return Gated(gate_up, self.matrix([prefix + "down_proj"], config.mlp_bias), config.activation)

    def norm(self, name: str) -> torch.Tensor:
        """Read a norm's weight; a sum with the offset stays in float32, where it is exact enough."""
        offset = self.config.norm_offset
        if not offset:
            return self.tensor(name)
        weight = torch.empty(self.checkpoint.shapes[name])
        self.checkpoint.read_into(name, weight)
        return weight.add_(offset).to(self.device)

    def head_norm(self, name: str) -> torch.Tensor | None:
        """Read a norm of heads, where the model has them."""
        if not self.config.qk_norm and not self.config.qk_norm_wide:
            return None
        return self.paired(self.norm(name))

    def paired(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of heads in the order in which they are turned."""
        head_dim = self.config.head_dim
        return pair_up(rows, head_dim, self.config.rope.turned(head_dim))
