"""Which files of a source a model needs, whatever kind of place holds them. Never a pickle."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from slipway_engine.errors import InvalidArgument, ModelNotFound, ModelUnsupported
from slipway_engine.sources.download import RemoteFile

SIGNATURE: Final = "model.sig"
"""The name under which a model's signature lies beside its files."""
# Weights that run no code when they are read, and the texts that describe them. All else stays where it is.
_ALLOWED = re.compile(
    r"[\w.+-]+\.(safetensors|gguf|json|jinja)|LICENSE[\w.]*|(merges|vocab)\.txt|model\.sig", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar that holds files of the model."""

    file: RemoteFile
    compressed: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """The files to fetch, at one commit, and the licence that the source names.

    `commit` is 40 to 64 hex digits: a hub's commit, an artifact's digest, or, where a place knows no versions
    of the whole, a digest over the versions of its files. `archives` hold further files, told by none.
    """

    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None = None
    archives: tuple[Archive, ...] = ()


def version_of(files: Iterable[tuple[str, int, str]]) -> str:
    """Return one version for files that have each their own: SHA-256 over names, sizes and versions."""
    lines = sorted(f"{name}\0{size}\0{version}\n" for name, size, version in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_wanted(name: str) -> bool:
    """Return whether a file of this name is ever fetched."""
    return _ALLOWED.fullmatch(name) is not None


def choose(where: str, names: Sequence[str], file: str | None = None) -> list[str]:
    """Return which files a model needs of those at `where`; `file` names the one. Raises EngineError."""
    if file is not None:
        if file not in names:
            raise ModelNotFound(f"{where} has no file {file}; it has {_some(names)}.")
        return [file, *(name for name in names if name == f"{file}.sig")]
    allowed = sorted(name for name in names if _ALLOWED.fullmatch(name))
    tensors = [name for name in allowed if name.endswith(".safetensors")]
    packed = [name for name in names if name.endswith(".gguf")]
    texts = [name for name in allowed if not name.endswith((".safetensors", ".gguf"))]
    if tensors:
        return texts + _one_format(tensors)
    if len(packed) == 1:
        return texts + packed
    if packed:
        raise InvalidArgument(f"{where} has {len(packed)} GGUF files; name one: {where}/{sorted(packed)[0]}.")
    raise ModelUnsupported(
        f"{where} has neither safetensors nor GGUF weights (it has {_some(names)}); pickles "
        "are never read: convert them to safetensors first."
    )


def _one_format(tensors: Sequence[str]) -> list[str]:
    """Return the tensors once: some repositories also hold them in a single consolidated file."""
    split = [name for name in tensors if not name.startswith("consolidated")]
    return split or list(tensors)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "no files"
