"""Parts of files, near or far: the beginning of a file is read without the rest of it.

`Pieces` looks like the bytes of a whole file (`len`, slices) and brings only what is touched, in steps; a
header reader that checks every length against the file's end works on it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from slipway_engine.errors import DownloadFailed, ModelAccessDenied, ModelCorrupt, ModelNotFound
from slipway_engine.sources.download import Downloader, RemoteFile

STEP: Final = 1 << 20
MAX_TOUCHED: Final = 256 << 20
"""Most bytes of one file that are read; headers have a few MiB."""
_TOTAL: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")

Read = Callable[[int, int], bytes]


class Pieces:
    """The bytes of a file from its beginning on, brought as far as they are touched."""

    def __init__(self, name: str, size: int, read: Read) -> None:
        self._name, self._size, self._read = name, size, read
        self._known = bytearray()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> memoryview:
        start, stop, _ = part.indices(self._size)
        while len(self._known) < stop:
            self._bring(stop)
        return memoryview(bytes(self._known[start:stop]))

    def _bring(self, stop: int) -> None:
        have = len(self._known)
        if stop > MAX_TOUCHED:
            raise ModelCorrupt(f"{self._name} claims a header of more than {MAX_TOUCHED >> 20} MiB.")
        # Twice as much each time: a header of unknown length costs a handful of requests.
        want = min(max(stop - have, STEP, have), self._size - have)
        piece = self._read(have, want)
        if not piece:
            raise ModelCorrupt(f"{self._name} ends after {have} of {self._size} bytes.")
        self._known += piece


def local_pieces(path: Path) -> Pieces:
    """Return a local file's bytes. Raises EngineError."""

    def read(start: int, count: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)

    try:
        return Pieces(path.name, path.stat().st_size, read)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} does not exist; check the path.") from error
    except PermissionError as error:
        raise ModelAccessDenied(f"{path} may not be read by this user; change its permissions.") from error


def remote_pieces(file: RemoteFile, downloader: Downloader) -> Pieces:
    """Return a remote file's bytes, by HTTP ranges; the first range tells its size. Raises EngineError."""
    first, total = _range(file, downloader, 0, STEP)
    size = file.size if file.size is not None else total

    def read(start: int, count: int) -> bytes:
        return first if start == 0 else _range(file, downloader, start, count)[0]

    return Pieces(file.name, size, read)


def _range(file: RemoteFile, downloader: Downloader, start: int, count: int) -> tuple[bytes, int]:
    """Return at most `count` bytes from `start`, and the size of the whole."""
    body, response = downloader.read(file, start, count)
    if response.status_code == httpx.codes.OK and start == 0:
        length = response.headers.get("content-length", "")
        if file.size is None and not (length.isdecimal() and len(length) < 19):
            raise DownloadFailed(
                f"{file.name}: the source tells neither ranges nor a size; check the source."
            )
        return body, file.size if file.size is not None else int(length)
    found = _TOTAL.fullmatch(response.headers.get("content-range", ""))
    if found is None or int(found[1]) != start:
        raise DownloadFailed(f"{file.name}: the source does not serve parts of files; check the source.")
    return body, int(found[3])
