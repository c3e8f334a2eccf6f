"""From a checkpoint to a `Decoder`: query, key and value fused, gate and up fused, all packed.

One matrix is in memory twice at a time: as it was read, and packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.decoder import Decoder, Layer
from slipway_engine.models.linear import Linear, LinearBackend
from slipway_engine.models.rope import pair_up, rotations


def load(
    checkpoint: Checkpoint,
    linear: LinearBackend,
    device: torch.device,
    dtype: torch.dtype,
    max_positions: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Decoder:
    """Read all weights, layer by layer, and report each layer to `progress`."""
    config = checkpoint.config
    loader = _Loader(checkpoint, linear, device, dtype)
    embedding = loader.tensor("model.embed_tokens.weight")
    layers = []
    for index in range(config.num_layers):
        layers.append(loader.layer(index))
        progress(index + 1, config.num_layers)
    head = linear(embedding, None) if config.tied_embeddings else loader.matrix(["lm_head"], False)
    turns = rotations(config.rope, config.head_dim, max_positions).to(device)
    return Decoder(config, embedding, layers, loader.tensor("model.norm.weight"), head, turns)


class _Loader:
    def __init__(
        self, checkpoint: Checkpoint, linear: LinearBackend, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.checkpoint = checkpoint
        self.config: DecoderConfig = checkpoint.config
        self.linear = linear
        self.device = device
        self.dtype = dtype

    def tensor(self, name: str) -> torch.Tensor:
        return self.stacked([name])

    def stacked(self, names: Sequence[str]) -> torch.Tensor:
        """Read tensors one below the other into one."""
        shapes = [self.checkpoint.shapes[name] for name in names]
        whole = torch.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), dtype=self.dtype)
        for name, part in zip(names, torch.split(whole, [shape[0] for shape in shapes]), strict=True):
            self.checkpoint.read_into(name, part)
            if name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
                part.copy_(pair_up(part, self.config.head_dim))
        return whole.to(self.device)

    def matrix(self, names: Sequence[str], biased: bool) -> Linear:
        bias = self.stacked([f"{name}.bias" for name in names]) if biased else None
        return self.linear(self.stacked([f"{name}.weight" for name in names]), bias)

    def layer(self, index: int) -> Layer:
        config, prefix = self.config, f"model.layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        return Layer(
            attention_norm=self.tensor(prefix + "input_layernorm.weight"),
            qkv=self.matrix([attention + f"{part}_proj" for part in "qkv"], config.qkv_bias),
            query_norm=self.head_norm(attention + "q_norm.weight"),
            key_norm=self.head_norm(attention + "k_norm.weight"),
            out=self.matrix([attention + "o_proj"], config.out_bias),
            mlp_norm=self.tensor(prefix + "post_attention_layernorm.weight"),
            gate_up=self.matrix([mlp + "gate_proj", mlp + "up_proj"], config.mlp_bias),
            down=self.matrix([mlp + "down_proj"], config.mlp_bias),
        )

    def head_norm(self, name: str) -> torch.Tensor | None:
        if not self.config.qk_norm:
            return None
        return pair_up(self.tensor(name), self.config.head_dim)
