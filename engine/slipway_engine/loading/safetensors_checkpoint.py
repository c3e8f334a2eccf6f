"""A directory in Hugging Face layout: config.json, and safetensors in one file or in indexed shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from slipway_engine.errors import ModelCorrupt
from slipway_engine.loading import layout
from slipway_engine.loading.gguf import Bytes
from slipway_engine.loading.hf_config import read_config
from slipway_engine.loading.pooling import read_pooling
from slipway_engine.loading.shards import Shards, explained


class SafetensorsCheckpoint:
    """Opened shards under our names; `pooling` is set where the directory is an embedding model's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pooling = read_pooling(path)
        self.config = read_config(path, bare=self.pooling is not None)
        self._shards = Shards(path)
        self._rows: dict[str, layout.Rows] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in self._shards.shapes.items():
            self._add(name, shape)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor that the shards hold."""
        return self._shapes

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Copy the tensor `name` into `out`."""
        with self._reading(name) as tensor:
            out.copy_(tensor)

    def read_part(self, name: str, out: torch.Tensor, rows: slice, columns: slice) -> None:
        """Copy a part of the tensor `name`; the library reads no more than that of the file."""
        place = self._rows[name]
        at = slice(place.start + rows.start, place.start + rows.stop)
        with explained(self._shards.file_of(place.name)):
            view = self._shards.slice_of(place.name)
            out.copy_(view[at, columns] if out.dim() == 2 else view[at])

    def block_of(self, name: str) -> int:
        """Return 1: floats are not packed."""
        return 1

    def stored_type(self, name: str) -> str:
        """Return the type of `name` in its shard."""
        return self._shards.types[self._rows[name].name]

    def stored(self, name: str) -> Bytes:
        """Return the bytes [rows, bytes] of `name`."""
        with self._reading(name) as tensor:
            rows: Bytes = tensor.contiguous().view(torch.uint8).numpy()
        return rows

    @contextmanager
    def _reading(self, name: str) -> Iterator[torch.Tensor]:
        rows = self._rows[name]
        with self._shards.reading(rows.name) as tensor:
            yield tensor[rows.start : rows.stop] if tensor.dim() else tensor

    def _add(self, name: str, shape: tuple[int, ...]) -> None:
        called = layout.canonical(name, bare=self.pooling is not None)
        for ours, rows in layout.split(called, name, shape[0] if shape else 0, self.config):
            if ours in self._shapes:
                path = self._shards.file_of(name)
                raise ModelCorrupt(f"{path} holds {name!r}, but another tensor stands for {ours!r} already.")
            self._rows[ours] = rows
            self._shapes[ours] = rows.shape(shape) if shape else ()
