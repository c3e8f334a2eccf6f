"""From a checkpoint to one rank's decoder: the loader of whole models, over the rank's view of the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.loading.weights import Loader
from slipway_engine.models.decoder import Decoder, Layer
from slipway_engine.models.linear import Linear, LinearBackend
from slipway_engine.models.quantised import Quantised
from slipway_engine.models.rope import rotations
from slipway_engine.parallel.decoder import Reduced, ShardedDecoder
from slipway_engine.parallel.experts import Dispatched, Load
from slipway_engine.parallel.shard import Shard
from slipway_engine.parallel.traffic import Links
from slipway_engine.parallel.view import ShardView


class ShardLoader(Loader):
    """Reads a shard. `loads` collects, a layer, how many tokens each expert of the rank answered."""

    def __init__(
        self,
        view: ShardView,
        shard: Shard,
        links: Links,
        linear: LinearBackend,
        device: torch.device,
        dtype: torch.dtype,
        rounding: Quantised | None,
    ) -> None:
        super().__init__(view, linear, device, dtype, rounding)
        self.shard = shard
        self.links = links
        self.loads: list[Load] = []

    def layer(self, index: int) -> Layer:
        """Read a layer whose sums go over the ranks of the stage."""
        layer = super().layer(index)
        if self.shard.degrees.tensor == 1:
            return layer
        mlp = layer.mlp if isinstance(layer.mlp, Dispatched) else Reduced(layer.mlp, self.links)
        return replace(layer, out=Reduced(layer.out, self.links), mlp=mlp)

    def mlp(self, prefix: str) -> Linear:
        """Read an MLP, or the experts of this rank where they are whole."""
        config, mine = self.config.experts, self.shard.experts
        if config is None or mine is None or mine.size == config.count:
            return super().mlp(prefix)
        router = self.linear(self.stacked([prefix + "gate.weight"]), None)
        experts = [self.gated(f"{prefix}experts.{number}.") for number in range(mine.start, mine.stop)]
        self.loads.append(Load(mine))
        return Dispatched(config, router, experts, self.links, self.loads[-1])


def load(
    checkpoint: Checkpoint,
    shard: Shard,
    links: Links,
    linear: LinearBackend,
    device: torch.device,
    dtype: torch.dtype,
    positions: int,
    progress: Callable[[int, int], None],
    rounding: Quantised | None,
) -> tuple[ShardedDecoder, list[Load]]:
    """Read one rank's weights, and nothing of the others'."""
    view = ShardView(checkpoint, shard)
    config = view.config
    loader = ShardLoader(view, shard, links, linear, device, dtype, rounding)
    nothing = torch.empty((0, config.hidden_size), dtype=dtype, device=device)
    tied = shard.last and config.tied_embeddings
    embedding = loader.rounded(["model.embed_tokens.weight"]) if shard.first or tied else nothing
    layers = []
    for index in range(config.num_layers):
        layers.append(loader.layer(index))
        progress(index + 1, config.num_layers)
    head = _head(loader, shard, linear, embedding)
    norm = loader.norm("model.norm.weight") if shard.last else nothing
    turns = rotations(config.rope, config.head_dim, positions).to(device)
    local = None if config.local_rope is None else rotations(config.local_rope, config.head_dim, positions)
    inner = Decoder(config, embedding, layers, norm, head, turns, None if local is None else local.to(device))
    return ShardedDecoder(inner, shard.words, links), loader.loads


def _head(loader: ShardLoader, shard: Shard, linear: LinearBackend, embedding: torch.Tensor) -> Linear:
    if not shard.last:
        return _no_head
    return linear(embedding, None) if loader.config.tied_embeddings else loader.matrix(["lm_head"], False)


def _no_head(rows: torch.Tensor) -> torch.Tensor:
    raise AssertionError("only the last stage answers")
