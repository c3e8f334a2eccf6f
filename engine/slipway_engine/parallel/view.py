"""A checkpoint as one rank sees it: a smaller model's, whose tensors are parts of the file's.

A part is read by itself, so that a rank's memory, and what it reads, is its share and no more. Weights that
are packed in blocks are cut between blocks and unpacked as they are; nothing is rounded a second time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from slipway_engine.errors import ModelUnsupported
from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.loading.gguf import Bytes
from slipway_engine.models.config import DecoderConfig
from slipway_engine.parallel.shard import Part, Shard

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_BY_HEADS = ("self_attn.q_proj.weight", "self_attn.q_proj.bias")
_BY_KEY_HEADS = tuple(f"self_attn.{part}_proj.{kind}" for part in "kv" for kind in ("weight", "bias"))
_BY_INNER = tuple(f"{part}_proj.{kind}" for part in ("gate", "up") for kind in ("weight", "bias"))
_BY_WORDS = ("model.embed_tokens.weight", "lm_head.weight")
_ONCE = ("self_attn.o_proj.bias", "down_proj.bias")
"""What is added to a sum over the ranks, by one of them."""


class ShardView:
    """The part of a checkpoint that one shard holds, under the names of a model of its size."""

    pooling = None

    def __init__(self, whole: Checkpoint, shard: Shard) -> None:
        self._whole = whole
        self._shard = shard
        self._head_dim = whole.config.head_dim
        self.path: Path = whole.path
        self.config: DecoderConfig = shard.config(whole.config)
        self.shapes: Mapping[str, tuple[int, ...]] = self.config.tensors()

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Copy this rank's part of the tensor `name` into `out`."""
        ours = self._name(name)
        if name.endswith(_ONCE) and self._shard.place:
            out.zero_()
        elif (columns := self._columns(name)) is not None:
            self._whole.read_part(ours, out, slice(0, len(out)), slice(columns.start, columns.stop))
        elif (rows := self._rows(name)) is not None:
            width = out.shape[1] if out.dim() == 2 else 1
            self._whole.read_part(ours, out, slice(rows.start, rows.stop), slice(0, width))
        else:
            self._whole.read_into(ours, out)

    def read_part(self, name: str, out: torch.Tensor, rows: slice, columns: slice) -> None:
        """Refuse: a shard is not cut again."""
        raise ModelUnsupported(f"{self.path}: the tensor {name!r} of a shard cannot be cut again.")

    def stored_type(self, name: str) -> str:
        """Return the type of `name` in the file."""
        return self._whole.stored_type(self._name(name))

    def block_of(self, name: str) -> int:
        """Return the elements of one block of `name`."""
        return self._whole.block_of(self._name(name))

    def stored(self, name: str) -> Bytes:
        """Refuse: shards are computed in floats."""
        raise ModelUnsupported(
            f"{self.path}: shards are read unpacked; {name!r} cannot be had in its blocks."
        )

    def _name(self, name: str) -> str:
        """Return the name in the whole model, where layers are counted from its first."""
        return _LAYER.sub(lambda match: f"model.layers.{int(match[1]) + self._shard.layers.start}.", name)

    def _rows(self, name: str) -> Part | None:
        shard = self._shard
        if name in _BY_WORDS:
            return shard.words
        if name.endswith(_BY_HEADS):
            return shard.heads.scaled(self._head_dim)
        if name.endswith(_BY_KEY_HEADS):
            return shard.kv_heads.scaled(self._head_dim)
        return shard.inner if name.endswith(_BY_INNER) else None

    def _columns(self, name: str) -> Part | None:
        if name.endswith("self_attn.o_proj.weight"):
            return self._shard.heads.scaled(self._head_dim)
        return self._shard.inner if name.endswith("down_proj.weight") else None


def block_unit(checkpoint: Checkpoint, mode: str) -> int:
    """Return how many weights of a row belong together where columns are cut.

    It is the widest block among the matrices that are cut by columns; `mode` int8 or int4 rounds in 32s.
    """
    config = checkpoint.config
    cut = [name for name in config.tensors() if name.endswith(("o_proj.weight", "down_proj.weight"))]
    stored = max(checkpoint.block_of(name) for name in cut)
    return max(stored, 32) if mode in ("int8", "int4") else stored
