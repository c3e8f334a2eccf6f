"""What every checkpoint format offers: a configuration, and tensors by their Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from slipway_engine.errors import ModelCorrupt, ModelNotFound
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.gguf import Bytes
from slipway_engine.loading.hf_config import architectures, known, read_json
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.pooling import Pooling

if TYPE_CHECKING:
    from slipway_engine.loading.transformers_model import TransformersModel

IGNORED_SUFFIXES = (".rotary_emb.inv_freq", ".attention.bias", ".masked_bias")
"""Buffers that old checkpoints carry; they hold nothing that the configuration does not say."""


class Checkpoint(Protocol):
    """An opened model. Tensors are read one by one, so that the load's peak stays low."""

    @property
    def path(self) -> Path:
        """The file or directory, for error messages."""

    @property
    def config(self) -> DecoderConfig:
        """The model that the tensors are for."""

    @property
    def pooling(self) -> Pooling | None:
        """How hidden states become an embedding, where the model is made for them."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor that the files hold."""

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Copy the tensor `name` into `out`, a contiguous tensor of its shape, converting to its dtype."""

    def read_part(self, name: str, out: torch.Tensor, rows: slice, columns: slice) -> None:
        """Copy a part of the matrix (or, with its rows alone, of the vector) `name`, and read nothing else.

        The columns of packed weights begin and end between blocks; others raise `ModelUnsupported`.
        """

    def stored_type(self, name: str) -> str:
        """Return the type of the tensor `name` in the file, by its GGML name."""

    def block_of(self, name: str) -> int:
        """Return how many neighbours in a row of the tensor `name` are packed in one block; 1 for floats."""

    def stored(self, name: str) -> Bytes:
        """Return the bytes [rows, bytes] of the tensor `name`, of its stored type."""


def open_model(path: Path) -> Checkpoint | TransformersModel:
    """Open a model; one whose architecture our decoder does not know is left to transformers' modelling."""
    config = path / "config.json"
    if path.is_dir() and config.exists() and not known(architectures(Fields(config, read_json(config)))):
        from slipway_engine.loading.transformers_model import TransformersModel

        return TransformersModel(path)
    return open_checkpoint(path)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a directory in Hugging Face layout, and check that its tensors are the model's."""
    from slipway_engine.loading.gguf_checkpoint import GGUFCheckpoint
    from slipway_engine.loading.safetensors_checkpoint import SafetensorsCheckpoint

    if not path.exists():
        raise ModelNotFound(f"{path} does not exist; give a GGUF file or a Hugging Face model directory.")
    checkpoint: Checkpoint
    if path.is_file():
        checkpoint = GGUFCheckpoint(path)
    elif not (path / "config.json").exists() and (found := sorted(path.glob("*.gguf"))):
        checkpoint = GGUFCheckpoint(_only(path, found))
    else:
        checkpoint = SafetensorsCheckpoint(path)
    check_tensors(checkpoint)
    return checkpoint


def check_tensors(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that lacks a tensor, has one too many, or one of another shape."""
    expected, found = checkpoint.config.tensors(), checkpoint.shapes
    for name, shape in expected.items():
        if name not in found:
            raise ModelCorrupt(f"{checkpoint.path} lacks the tensor {name!r}; fetch the model again.")
        if tuple(found[name]) != shape:
            raise ModelCorrupt(
                f"{checkpoint.path}: the tensor {name!r} has the shape {list(found[name])}, "
                f"the configuration asks for {list(shape)}; fetch the model again."
            )
    extra = [name for name in found if name not in expected and not _ignored(name, checkpoint.config)]
    if extra:
        raise ModelCorrupt(
            f"{checkpoint.path} holds {len(extra)} tensors that the configuration has no place for, "
            f"{extra[0]!r} first; its config and its weights are not of one model."
        )


def _ignored(name: str, config: DecoderConfig) -> bool:
    return name.endswith(IGNORED_SUFFIXES) or (name == "lm_head.weight" and config.tied_embeddings)


def _only(directory: Path, found: list[Path]) -> Path:
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise ModelNotFound(f"{directory} holds {len(found)} GGUF files ({names}); give the path of one.")
    return found[0]
