"""Cache keys: the hash of what a thing is made of."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

LENGTH = 12
PARTIAL = ".partial"


def key_of(parts: Mapping[str, str | bytes]) -> str:
    """Twelve hex digits over named parts, whatever their order.

    Each name and each part is preceded by its length, so that no two sets of
    parts can run together into the same bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name]
        for piece in (name.encode(), part if isinstance(part, bytes) else part.encode()):
            digest.update(f"{len(piece)}:".encode())
            digest.update(piece)
    return digest.hexdigest()[:LENGTH]


def files_of(folder: Path, suffixes: Iterable[str]) -> dict[str, bytes]:
    """The files below a folder that end so, by their path inside it."""
    wanted = tuple(suffixes)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name.endswith(wanted)
    }
