"""Images as they come to be loaded: an OCI archive, an OCI layout, or the storage of buildah or Docker.

Whatever the form, a `Source` tells the image's name and digest, lists its
blobs and opens them, so that a loader can send only what is missing.
"""

import json
import shutil
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from e2e.cluster import oci, shell
from e2e.cluster.errors import ClusterError

COPY_BYTES = 1 << 20
INDEXES = {oci.INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"}


@dataclass(frozen=True)
class Blob:
    """A blob an image needs."""

    digest: str
    size: int


def full_name(name: str) -> str:
    """The name as Kubernetes spells it: a short one belongs to Docker's hub."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        full = name
    else:
        full = f"docker.io/{name}" if slash else f"docker.io/library/{name}"
    tagged = ":" in full.rpartition("/")[2] or "@" in full
    return full if tagged else f"{full}:latest"


class Source(ABC):
    """One image in some place."""

    def __init__(self, where: str, index: bytes, name: str | None = None) -> None:
        found = oci.entries(index, where)
        if len(found) != 1:
            raise ClusterError(f"{where} holds {len(found)} images; write one image into each archive.")
        chosen = name or found[0].name
        if not chosen:
            raise ClusterError(
                f"The image in {where} has no name; write it with "
                "`buildah push IMAGE oci-archive:FILE:IMAGE`, which keeps it."
            )
        self.where = where
        self.name = full_name(chosen)
        self.digest = found[0].digest
        self._descriptor: dict[str, Any] = json.loads(index)["manifests"][0]

    @abstractmethod
    def open(self, digest: str) -> IO[bytes]:
        """Opens a blob for reading."""

    def index(self) -> bytes:
        """An index that gives the image its full name."""
        annotations = dict.fromkeys(oci.REFERENCE_NAMES, self.name)
        described = {**self._descriptor, "annotations": annotations}
        return oci.dump({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [described]})

    def blobs(self) -> list[Blob]:
        """Every blob of the image, manifests first."""
        return list(self._walk(self._descriptor))

    def _walk(self, descriptor: dict[str, Any]) -> Iterator[Blob]:
        try:
            yield Blob(descriptor["digest"], descriptor["size"])
            kind = descriptor.get("mediaType", oci.MANIFEST)
            if "manifest" not in kind and kind not in INDEXES:
                return
            with self.open(descriptor["digest"]) as content:
                manifest = json.load(content)
            for child in manifest.get("manifests", []):
                yield from self._walk(child)
            parts = [*manifest.get("layers", []), *([manifest["config"]] if "config" in manifest else [])]
            for part in parts:
                yield Blob(part["digest"], part["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ClusterError(
                f"{self.where} holds a manifest that is no OCI manifest ({error!r})."
            ) from error


class Layout(Source):
    """An OCI layout in a folder."""

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder = folder
        super().__init__(str(folder), (folder / "index.json").read_bytes(), name)

    def open(self, digest: str) -> IO[bytes]:
        """Opens a blob of the layout."""
        algorithm, _, value = digest.partition(":")
        try:
            return (self.folder / "blobs" / algorithm / value).open("rb")
        except FileNotFoundError:
            raise ClusterError(f"{self.where} lacks the blob {digest}; write it anew.") from None


class Archive(Source):
    """An OCI layout in a tar file."""

    def __init__(self, archive: tarfile.TarFile, where: str) -> None:
        self.archive = archive
        super().__init__(where, self._member("index.json").read())

    def _member(self, name: str) -> IO[bytes]:
        for spelled in (name, f"./{name}"):
            try:
                member = self.archive.extractfile(spelled)
            except KeyError:
                continue
            if member is not None:
                return member
        raise KeyError(name)

    def open(self, digest: str) -> IO[bytes]:
        """Opens a blob of the archive."""
        try:
            return self._member(f"blobs/{digest.replace(':', '/')}")
        except KeyError:
            raise ClusterError(f"{self.where} lacks the blob {digest}; write it anew.") from None


@contextmanager
def open_archive(file: Path) -> Iterator[Archive]:
    """Opens an OCI archive; compressed ones are refused, as each look into them would unpack them whole."""
    try:
        with tarfile.open(file, mode="r:") as archive:
            yield Archive(archive, str(file))
    except (tarfile.TarError, KeyError) as error:
        raise ClusterError(
            f"{file} is no uncompressed OCI archive ({error}); "
            f"write one with `buildah push IMAGE oci-archive:{file}:IMAGE`."
        ) from error


class _Counted:
    """Tells how many bytes of blobs have gone by."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.tell = tell
        self.sent = 0

    def copy(self, content: IO[bytes], stream: IO[bytes]) -> None:
        while chunk := content.read(COPY_BYTES):
            stream.write(chunk)
            self.sent += len(chunk)
            self.tell(self.sent)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def write_stream(
    image: Source, blobs: Iterable[Blob], stream: IO[bytes], tell: Callable[[int], None] = lambda _: None
) -> int:
    """Writes an OCI archive with some of an image's blobs to a stream; returns how many bytes they had.

    `tell` hears how many have been written. The tar is written straight through,
    since tarfile's own streams copy every byte several times.
    """
    counted = _Counted(tell)
    for name, text in (("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", image.index())):
        stream.write(_header(name, len(text)) + text + _padding(len(text)))
    for blob in blobs:
        stream.write(_header(f"blobs/{blob.digest.replace(':', '/')}", blob.size))
        with image.open(blob.digest) as content:
            counted.copy(content, stream)
        stream.write(_padding(blob.size))
    stream.write(bytes(2 * tarfile.BLOCKSIZE))
    return counted.sent


def in_buildah(name: str) -> bool:
    """Whether buildah's storage on this machine holds the image."""
    return (
        bool(shutil.which("buildah"))
        and shell.attempt(["buildah", "inspect", "--type=image", name]).returncode == 0
    )


@contextmanager
def from_buildah(name: str, scratch: Path, known_blobs: Path | None = None) -> Iterator[Layout]:
    """An image of buildah's storage as a layout.

    Layers stay as they are stored, uncompressed. Blobs that the target has
    already are shown to buildah by hard links, so it does not write them again.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="layout-", dir=scratch) as folder:
        blobs = Path(folder) / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for blob in known_blobs.iterdir() if known_blobs and known_blobs.is_dir() else ():
            (blobs / blob.name).hardlink_to(blob)
        shell.run(
            ["buildah", "push", "--disable-compression", "--quiet", name, f"oci:{folder}:{full_name(name)}"]
        )
        yield Layout(Path(folder), full_name(name))


@contextmanager
def as_archive(image: Source, scratch: Path) -> Iterator[Path]:
    """An image as one archive file, for a loader that takes nothing else."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archive-", dir=scratch) as folder:
        target = Path(folder) / "image.tar"
        with target.open("wb") as stream:
            write_stream(image, image.blobs(), stream)
        yield target


def in_docker(name: str) -> bool:
    """Whether Docker's storage on this machine holds the image."""
    ask = ["docker", "image", "inspect", name]
    return bool(shutil.which("docker")) and shell.attempt(ask, timeout=20).returncode == 0


@contextmanager
def from_docker(name: str, scratch: Path) -> Iterator[Archive]:
    """An image of Docker's storage; engines since version 25 save it as an OCI archive."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="docker-", dir=scratch) as folder:
        file = Path(folder) / "image.tar"
        shell.run(["docker", "save", f"--output={file}", name])
        with open_archive(file) as archive:
            yield archive


@contextmanager
def source(text: str, scratch: Path, known_blobs: Path | None = None) -> Iterator[Source]:
    """The image a user means: a file, a folder, or a name in local storage."""
    path = Path(text)
    if (path / "index.json").is_file():
        yield Layout(path)
    elif path.is_file():
        with open_archive(path) as archive:
            yield archive
    elif path.exists():
        raise ClusterError(
            f"{text} is a folder without index.json, so no OCI layout; name one, or an OCI archive."
        )
    elif in_buildah(text):
        with from_buildah(text, scratch, known_blobs) as layout:
            yield layout
    elif in_docker(text):
        with from_docker(text, scratch) as archive:
            yield archive
    else:
        raise ClusterError(
            f"{text} is no file, and neither buildah nor Docker has an image of that name; "
            "build it first, or name an OCI archive."
        )
