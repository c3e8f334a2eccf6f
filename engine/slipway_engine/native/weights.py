"""From a checkpoint to packed matrices: the file's own values, fused as the step reads them.

Blocks that the library computes with (Q8_0, Q4_0, Q4_1, and F16, BF16, F32) are packed as they are; other
types are unpacked to float32 first, which loses nothing. The mode "int8" packs floats as Q8_0, "int4" all but
4-bit blocks as Q4_1, embedding and head as Q8_0, where 32 divides their width: one matrix after the other, so
that no more than one lies in memory as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch

from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.models.config import DecoderConfig
from slipway_engine.native.library import Array, Format, Matrix, Pool, Rows

Mode: TypeAlias = Literal["none", "int8", "int4"]

_NATIVE = {format.name: format for format in Format}
_EMBEDDING, _HEAD, _ROUTER = "model.embed_tokens", "lm_head", "mlp.gate"


@dataclass(frozen=True)
class LayerParts:
    """One layer's matrices, and its vectors by their names in the checkpoint.

    Gate, up and down are those of the MLP or, with a router, of each expert.
    """

    qkv: Matrix
    out: Matrix
    gate_up: Matrix | None
    down: Matrix | None
    vectors: dict[str, Array]
    router: Matrix | None = None
    experts: tuple[tuple[Matrix, Matrix], ...] = ()

    def matrices(self) -> list[Matrix]:
        """All of them."""
        single = [self.qkv, self.out, self.gate_up, self.down, self.router]
        return [matrix for matrix in single if matrix] + [part for pair in self.experts for part in pair]

    @cached_property
    def experts_gate_up(self) -> Array:
        """Addresses of the experts' gate and up projections."""
        return np.array([pair[0].handle for pair in self.experts], dtype=np.uintp)

    @cached_property
    def experts_down(self) -> Array:
        """Addresses of the experts' down projections."""
        return np.array([pair[1].handle for pair in self.experts], dtype=np.uintp)


@dataclass(frozen=True, slots=True)
class Weights:
    """A packed model. `head` is the embedding itself where the two are tied."""

    config: DecoderConfig
    embedding: Matrix
    head: Matrix
    norm: Array
    layers: list[LayerParts]

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices in memory."""
        matrices = [self.embedding, *([] if self.head is self.embedding else [self.head])]
        for layer in self.layers:
            matrices += layer.matrices()
        return sum(matrix.nbytes for matrix in matrices)


def groups(config: DecoderConfig) -> list[tuple[str, ...]]:
    """Return the weights that are packed into one matrix each."""
    found: list[tuple[str, ...]] = [(_EMBEDDING,)] if config.tied_embeddings else [(_EMBEDDING,), (_HEAD,)]
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        found.append(tuple(f"{prefix}self_attn.{part}_proj" for part in "qkv"))
        found.append((f"{prefix}self_attn.o_proj",))
        if config.experts is not None:
            found.append((f"{prefix}{_ROUTER}",))
        for mlp in _mlps(config):
            found.append((f"{prefix}{mlp}gate_proj", f"{prefix}{mlp}up_proj"))
            found.append((f"{prefix}{mlp}down_proj",))
    return found


def _mlps(config: DecoderConfig) -> list[str]:
    """Return the prefixes of a layer's MLP, or of its experts."""
    if config.experts is None:
        return ["mlp."]
    return [f"mlp.experts.{expert}." for expert in range(config.experts.count)]


def packed_format(names: Sequence[str], types: Sequence[str], width: int, mode: Mode) -> Format:
    """Return the format in which weights of these names and types are packed together."""
    format = _NATIVE.get(types[0], Format.F32) if len(set(types)) == 1 else Format.F32
    if mode == "none" or width % 32 or names[0].endswith(_ROUTER):
        return format
    if mode == "int8" or names[0] in (_EMBEDDING, _HEAD):
        return format if format.quantised else Format.Q8_0
    return format if format in (Format.Q4_0, Format.Q4_1) else Format.Q4_1


def load(
    checkpoint: Checkpoint,
    pool: Pool,
    mode: Mode,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Weights:
    """Read and pack all weights, layer by layer, and report each layer to `progress`."""
    packer = _Packer(checkpoint, pool, mode)
    config = checkpoint.config
    embedding = packer.matrix([_EMBEDDING])
    head = embedding if config.tied_embeddings else packer.matrix([_HEAD])
    layers = []
    for index in range(config.num_layers):
        layers.append(packer.layer(f"model.layers.{index}."))
        progress(index + 1, config.num_layers)
    return Weights(config, embedding, head, packer.vector("model.norm.weight"), layers)


class _Packer:
    def __init__(self, checkpoint: Checkpoint, pool: Pool, mode: Mode) -> None:
        self.checkpoint = checkpoint
        self.pool = pool
        self.mode = mode

    def layer(self, prefix: str) -> LayerParts:
        config, attention = self.checkpoint.config, prefix + "self_attn."
        names = [name for name in config.tensors() if name.startswith(prefix)]
        mlps = tuple(self.mlp(prefix + mlp) for mlp in _mlps(config))
        return LayerParts(
            qkv=self.matrix([f"{attention}{part}_proj" for part in "qkv"]),
            out=self.matrix([attention + "o_proj"]),
            gate_up=mlps[0][0] if config.experts is None else None,
            down=mlps[0][1] if config.experts is None else None,
            router=None if config.experts is None else self.matrix([prefix + _ROUTER]),
            experts=() if config.experts is None else mlps,
            vectors={
                name.removeprefix(prefix): self.vector(name)
                for name in names
                if len(self.checkpoint.shapes[name]) == 1
            },
        )

    def mlp(self, prefix: str) -> tuple[Matrix, Matrix]:
        gate_up = self.matrix([prefix + "gate_proj", prefix + "up_proj"], gated=True)
        return gate_up, self.matrix([prefix + "down_proj"])

    def matrix(self, names: Sequence[str], gated: bool = False) -> Matrix:
        stored = [f"{name}.weight" for name in names]
        types = [self.checkpoint.stored_type(name) for name in stored]
        format = packed_format(names, types, self.checkpoint.shapes[stored[0]][1], self.mode)
        kept = len(set(types)) == 1 and types[0] in _NATIVE
        kept = kept and (not _NATIVE[types[0]].quantised or types[0] == format.name)
        parts = [self.as_stored(name) if kept else self.unpacked(name) for name in stored]
        return Matrix(self.pool, parts, format, gated)

    def as_stored(self, name: str) -> Rows:
        rows, width = self.checkpoint.shapes[name]
        format = _NATIVE[self.checkpoint.stored_type(name)]
        return Rows(format, rows, width, np.ascontiguousarray(self.checkpoint.stored(name)))

    def unpacked(self, name: str) -> Rows:
        return Rows.of_floats(self.vector(name))

    def vector(self, name: str) -> Array:
        values = torch.empty(self.checkpoint.shapes[name], dtype=torch.float32)
        self.checkpoint.read_into(name, values)
        if name.endswith("norm.weight"):
            values.add_(self.checkpoint.config.norm_offset)
        return values.numpy()
