"""A directory in Hugging Face layout: config.json, and safetensors in one file or in indexed shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from slipway_engine.errors import ModelAccessDenied, ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading import layout
from slipway_engine.loading.gguf import Bytes
from slipway_engine.loading.hf_config import read_config, read_json
from slipway_engine.loading.limits import MAX_SHARDS

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = ("F32", "BF16", "F16")


class SafetensorsCheckpoint:
    """Opened shards; only the safetensors library reads them, never pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self._shards: dict[str, Any] = {}
        self._shard_of: dict[str, str] = {}
        self._rows: dict[str, layout.Rows] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, str] = {}
        index = _index(path)
        for shard in sorted(set(index.values())) if index else [SINGLE]:
            self._open(shard, index)
        for name in index:
            if name not in self._shard_of:
                raise ModelCorrupt(f"{path / INDEX} names the tensor {name!r}, which {index[name]} lacks.")

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor that the shards hold."""
        return self._shapes

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Copy the tensor `name` into `out`."""
        with self._reading(name) as tensor:
            out.copy_(tensor)

    def stored_type(self, name: str) -> str:
        """Return the type of `name` in its shard."""
        return self._types[self._rows[name].name]

    def stored(self, name: str) -> Bytes:
        """Return the bytes [rows, bytes] of `name`."""
        with self._reading(name) as tensor:
            rows: Bytes = tensor.contiguous().view(torch.uint8).numpy()
        return rows

    @contextmanager
    def _reading(self, name: str) -> Iterator[torch.Tensor]:
        rows = self._rows[name]
        shard = self._shard_of[rows.name]
        with _explained(self.path / shard):
            tensor: torch.Tensor = self._shards[shard].get_tensor(rows.name)
            yield tensor[rows.start : rows.stop] if tensor.dim() else tensor

    def _open(self, shard: str, index: Mapping[str, str]) -> None:
        path = self.path / shard
        if not path.is_file():
            raise ModelNotFound(f"{path} does not exist; fetch the model again, in safetensors format.")
        with _explained(path):
            file: Any = safe_open(path, framework="pt")
            self._shards[shard] = file
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if index and index.get(name) != shard:
                    raise ModelCorrupt(f"{path} holds the tensor {name!r}, which the index places elsewhere.")
                self._add(path, name, shard, file.get_slice(name))

    def _add(self, path: Path, name: str, shard: str, view: Any) -> None:
        kind = view.get_dtype()
        if kind not in _DTYPES:
            raise ModelUnsupported(
                f"{path}: the tensor {name!r} is of type {kind}, which is not supported; "
                f"{', '.join(_DTYPES)} are."
            )
        self._shard_of[name] = shard
        self._types[name] = kind
        shape = tuple(view.get_shape())
        for ours, rows in layout.split(layout.canonical(name), name, shape[0] if shape else 0, self.config):
            if ours in self._shapes:
                raise ModelCorrupt(f"{path} holds {name!r}, but another tensor stands for {ours!r} already.")
            self._rows[ours] = rows
            self._shapes[ours] = rows.shape(shape) if shape else ()


def _index(path: Path) -> dict[str, str]:
    """Return the shard of each tensor, empty where there is a single file."""
    if (path / SINGLE).exists() or not (path / INDEX).exists():
        return {}
    index = read_json(path / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ModelCorrupt(f"{path / INDEX} has no weight_map; fetch the model again.")
    for name, shard in index.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise ModelCorrupt(f"{path / INDEX} places {name!r} in {shard!r}, no file of this directory.")
    if len(set(index.values())) > MAX_SHARDS:
        raise ModelCorrupt(f"{path / INDEX} names more than {MAX_SHARDS} shards.")
    return index


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the safetensors library raises into our errors."""
    try:
        yield
    except PermissionError as error:
        raise ModelAccessDenied(f"{path} may not be read by this user; change its permissions.") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelCorrupt(f"{path} is no valid safetensors file: {error}; fetch it again.") from error
