"""Archives that hold a model's files: unpacked without what is not wanted, or looked into from afar.

Of a tar only regular files whose names the fetch rule takes are read; folders, links and devices are passed
over, and a file's folder is dropped. A tar that is not compressed is looked into by ranges; a compressed one
has to be read as it comes.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from slipway_engine.errors import ModelCorrupt, VolumeFull
from slipway_engine.loading.limits import MAX_JSON
from slipway_engine.sources.download import Downloader, RemoteFile
from slipway_engine.sources.listing import Archive, is_wanted
from slipway_engine.sources.ranges import Pieces

_BLOCK: Final = 256 << 10
_SPARE_BYTES: Final = 64 << 20
KEPT: Final = 32 << 20
"""Of each file of a compressed archive this much is kept to look at: headers have a few MiB."""


def unpack(archive: Path, to: Path, *, compressed: bool) -> list[str]:
    """Write an archive's wanted files to a directory; return their names. Raises EngineError."""
    names = []
    try:
        with tarfile.open(archive, "r:gz" if compressed else "r:") as tar:
            for member, name in _wanted(tar):
                if member.size + _SPARE_BYTES > shutil.disk_usage(to).free:
                    raise VolumeFull(
                        f"{name} needs {member.size / 1e9:.2f} GB more; give the volume more room."
                    )
                content = tar.extractfile(member)
                assert content is not None, "a regular file"
                part = to / f".{name}.part"
                with part.open("wb") as out:
                    shutil.copyfileobj(content, out, 4 << 20)
                part.replace(to / name)
                names.append(name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _damaged(archive.name, error) from error
    return names


def look(archive: Archive, downloader: Downloader) -> dict[str, Pieces]:
    """Return the wanted files of a remote archive, each as far as it is looked at. Raises EngineError."""
    try:
        if archive.compressed:
            with downloader.reading(archive.file) as stream, tarfile.open(fileobj=stream, mode="r|gz") as tar:
                return {name: _beginning(tar, member, name) for member, name in _wanted(tar)}
        far = _Far(archive.file, downloader)
        with tarfile.open(fileobj=io.BufferedReader(far, _BLOCK), mode="r:") as tar:
            return {name: far.inside(name, member) for member, name in _wanted(tar)}
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _damaged(archive.file.name, error) from error


def _wanted(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in tar:
        name = PurePosixPath(member.name).name
        if member.isreg() and is_wanted(name):
            yield member, name


def _beginning(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Pieces:
    content = tar.extractfile(member)
    assert content is not None, "a regular file"
    kept = content.read(min(member.size, KEPT if name.endswith((".gguf", ".safetensors")) else MAX_JSON))
    return Pieces(name, member.size, lambda start, count: kept[start : start + count])


def _damaged(name: str, error: Exception) -> ModelCorrupt:
    return ModelCorrupt(f"{name} is no archive that can be read ({error}); push the model again.")


class _Far(io.RawIOBase):
    """A remote file that can be read from any place, by ranges."""

    def __init__(self, file: RemoteFile, downloader: Downloader) -> None:
        super().__init__()
        self._file, self._downloader, self._at = file, downloader, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size or 0}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self._read(self._at, len(buffer))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def inside(self, name: str, member: tarfile.TarInfo) -> Pieces:
        """Return a member's bytes."""
        return Pieces(name, member.size, lambda start, count: self._read(member.offset_data + start, count))

    def _read(self, start: int, count: int) -> bytes:
        count = min(count, (self._file.size or 0) - start)
        if count <= 0:
            return b""
        body, response = self._downloader.read(self._file, start, count)
        if response.status_code != 206 and start > 0:
            raise ModelCorrupt(
                f"{self._file.name}: the registry serves no parts of files; push the model as files."
            )
        return body
