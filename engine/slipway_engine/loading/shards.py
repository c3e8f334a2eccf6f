"""The safetensors files of a directory: one, or shards that an index names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from slipway_engine.errors import ModelAccessDenied, ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading.hf_config import read_json
from slipway_engine.loading.limits import MAX_SHARDS

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16")


class Shards:
    """Opened files. `shapes` and `types` are those of the tensors, by their names there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        self._shard_of: dict[str, str] = {}
        index = read_index(path)
        for shard in sorted(set(index.values())) if index else [SINGLE]:
            self._open(shard, index)
        for name in index:
            if name not in self._shard_of:
                raise ModelCorrupt(f"{path / INDEX} names the tensor {name!r}, which {index[name]} lacks.")

    def file_of(self, name: str) -> Path:
        """Return the file that holds the tensor `name`."""
        return self.path / self._shard_of[name]

    def slice_of(self, name: str) -> Any:
        """Return the library's handle of a tensor, which reads nothing before it is asked for."""
        return self._files[self._shard_of[name]].get_slice(name)

    @contextmanager
    def reading(self, name: str) -> Iterator[torch.Tensor]:
        """Give the tensor `name`; what fails within is said of its file."""
        with explained(self.file_of(name)):
            yield self._files[self._shard_of[name]].get_tensor(name)

    def _open(self, shard: str, index: Mapping[str, str]) -> None:
        path = self.path / shard
        if not path.is_file():
            raise ModelNotFound(f"{path} does not exist; fetch the model again, in safetensors format.")
        with explained(path):
            file: Any = safe_open(path, framework="pt")
            self._files[shard] = file
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if index and index.get(name) != shard:
                    raise ModelCorrupt(f"{path} holds the tensor {name!r}, which the index places elsewhere.")
                self._add(path, name, shard, file.get_slice(name))

    def _add(self, path: Path, name: str, shard: str, view: Any) -> None:
        kind = view.get_dtype()
        if kind not in DTYPES:
            raise ModelUnsupported(
                f"{path}: the tensor {name!r} is of type {kind}, which is not supported; "
                f"{', '.join(DTYPES)} are."
            )
        self._shard_of[name] = shard
        self.types[name] = kind
        self.shapes[name] = tuple(view.get_shape())


def read_index(path: Path) -> dict[str, str]:
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
def explained(path: Path) -> Iterator[None]:
    """Turn what the safetensors library raises into our errors."""
    try:
        yield
    except PermissionError as error:
        raise ModelAccessDenied(f"{path} may not be read by this user; change its permissions.") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelCorrupt(f"{path} is no valid safetensors file: {error}; fetch it again.") from error
