"""What must be equal in all ranks of a group before they compute together: the programs and the model."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import torch

_SAMPLES = 16
_SAMPLE_BYTES = 1 << 16
_SUFFIXES = (".safetensors", ".gguf", ".json")


def program() -> str:
    """Return the releases that must agree."""
    return f"slipway {version('slipway')}, torch {torch.__version__.partition('+')[0]}"


def checksum(path: Path) -> str:
    """Return a checksum of a model: its files' sizes, and samples spread evenly over each of them.

    A revision that was trained on differs in all of its weights, so a million bytes tell it from another;
    one changed byte between the samples goes unseen, which is what digests at the fetch are for.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{'' if path.is_file() else file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for sample in range(_SAMPLES):
                stream.seek(max(0, (size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1)))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
