"""What sources say of a file's content, and whether a file on this machine is that.

A digest has a name and a value in lower-case hex. Any that is known is checked; the strongest goes first,
since it alone may settle it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from slipway_engine.sources.crc import CRC32C, CRC64NVME

_STEP: Final = 4 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_of(path: Path) -> str:
    """Return the name that git gives a file's content: SHA-1 over `blob SIZE\\0` and the bytes, in hex."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_STEP):
            digest.update(piece)
    return digest.hexdigest()


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _folded(fold: Callable[[bytes, int], int], width: int) -> Callable[[Path], str]:
    def of(path: Path) -> str:
        value = 0
        with path.open("rb") as file:
            while piece := file.read(_STEP):
                value = fold(piece, value)
        return f"{value:0{width // 4}x}"

    return of


KINDS: Final[Mapping[str, Callable[[Path], str]]] = {
    "SHA-256": sha256_of,
    "git object name": git_blob_of,
    "MD5": _md5_of,
    "CRC-64/NVME": _folded(CRC64NVME.of, 64),
    "CRC-32C": _folded(CRC32C.of, 32),
    "CRC-32": _folded(zlib.crc32, 32),
}
"""Every digest that can be checked, the strongest first."""


def strongest(known: Mapping[str, str]) -> tuple[str, str] | None:
    """Return name and value of the strongest digest that can be checked; None where there is none."""
    return next(((kind, known[kind]) for kind in KINDS if kind in known), None)


def mismatch(path: Path, known: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Return name, found and expected value where a file is not what `known` says; None where it is."""
    told = strongest(known)
    if told is None:
        return None
    kind, expected = told
    found = KINDS[kind](path)
    return None if found == expected else (kind, found, expected)
