"""A source, whatever its scheme, to a model's path on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from slipway_engine.errors import (
    EngineError,
    InvalidArgument,
    ModelNotFound,
    ModelUnsigned,
    ModelUnsupported,
    VolumeFull,
)
from slipway_engine.sources import hub
from slipway_engine.sources.archives import unpack
from slipway_engine.sources.digests import mismatch, sha256_of
from slipway_engine.sources.download import Downloader, RemoteFile
from slipway_engine.sources.listing import Archive, Listing
from slipway_engine.sources.places import Fetch, is_listed, is_remote, listing_of, plain_http_meant
from slipway_engine.sources.progress import transfer
from slipway_engine.sources.tally import Tally

__all__ = ["Fetch", "cache_directory", "fetch", "is_remote", "local_path", "locate", "publish"]

log = logging.getLogger(__name__)

_MANIFEST = ".slipway-model.json"
IMAGES_FOLDER: Final = "models"
"""Where images that were built around a model have it, below their root."""
_STARTED = ".slipway-version"
_FORMS = (
    "hf://ORG/NAME[/FILE.gguf], s3://BUCKET/PATH, gs://BUCKET/PATH, oci://HOST/REPOSITORY:TAG, "
    "https://HOST/PATH.gguf, file:///PATH, or a path"
)


def fetch(source: str, to: Path, options: Fetch, downloader: Downloader | None = None) -> Path:
    """Bring a source to a directory (nothing is copied where it is local); return the model's path.

    What is already there and whole is not fetched again. Raises EngineError.
    """
    if options.revision is not None and not is_listed(source):
        raise InvalidArgument(f"--revision means nothing for {source!r}, which has no versions; remove it.")
    if not is_remote(source):
        return locate(local_path(source))
    try:
        allow_http = options.allow_http or plain_http_meant(source)
        with downloader or Downloader(allow_http=allow_http) as open_downloader:
            if is_listed(source):
                _fetch_listed(source, to, options, open_downloader)
            else:
                _fetch_url(source, to, options, open_downloader)
    except OSError as error:
        raise _unwritable(to, error) from error
    return locate(to)


def publish(source: str, to: Path, options: Fetch, downloader: Downloader | None = None) -> Path:
    """Bring a source to a directory that appears only once it is whole; return the model's path.

    What is unfinished lies beside it under `NAME.partial` and is taken up again by the next attempt. One
    rename publishes it: who sees the directory sees all of it. Raises EngineError.
    """
    try:
        published = is_remote(source) and to.is_dir()
    except OSError as error:
        raise _unwritable(to, error) from error
    if published:
        log.info("The model is already published.", extra={"path": str(to)})
        _verify(to, [path.name for path in to.iterdir() if not path.name.startswith(".")], options)
        return locate(to)
    partial = to.with_name(f"{to.name}.partial")
    model = fetch(source, partial, options, downloader)
    if not is_remote(source):
        return model
    try:
        _flush(partial)
        partial.rename(to)
        _flush(to.parent)
    except OSError as error:
        raise _unwritable(to, error) from error
    return locate(to)


def _flush(directory: Path) -> None:
    """Wait until a directory's files and entries are on the disk, as far as its file system can tell."""
    for path in [*(p for p in directory.iterdir() if p.is_file()), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(to: Path, error: OSError) -> EngineError:
    if error.errno == errno.ENOSPC:
        return VolumeFull(f"{to} is full; give the volume more room.")
    return InvalidArgument(f"{to} cannot be written ({error.strerror or error}); choose another directory.")


def cache_directory(source: str, revision: str | None) -> Path:
    """Return where this user's copy of a source is kept."""
    root = os.environ.get("SLIPWAY_CACHE") or Path.home() / ".cache" / "slipway"
    version = hashlib.sha256(f"{source}\n{revision}".encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", source.split("://", 1)[-1]).strip("-.")[-80:]
    return Path(root) / "models" / f"{name}-{version}"


def local_path(source: str) -> Path:
    """Return the path that a local source names. Raises InvalidArgument."""
    if source.startswith("file://"):
        parts = urlsplit(source)
        if parts.netloc or not parts.path.startswith("/"):
            raise InvalidArgument(f"{source!r} is no local file; write file:///PATH with three slashes.")
        return Path(unquote(parts.path))
    if source.startswith("pvc://"):
        raise InvalidArgument(
            f"{source!r} names a claim in a cluster; on a machine, give the path of its files."
        )
    if re.match(r"[a-z0-9]+://", source):
        raise InvalidArgument(f"{source!r} has a scheme that is not supported; write {_FORMS}.")
    return Path(source)


def locate(path: Path) -> Path:
    """Return the model at a path: a GGUF file, or a directory with config.json. Raises EngineError."""
    if path.is_file() or not path.exists():
        if not path.exists():
            raise ModelNotFound(
                f"{path} does not exist; give the path of a GGUF file or a model's directory."
            )
        return path
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if not files and (path / IMAGES_FOLDER).is_dir():
        return locate(path / IMAGES_FOLDER)
    if files:
        raise InvalidArgument(f"{path} holds {len(files)} GGUF files; name one, for example {files[0]}.")
    raise ModelNotFound(
        f"{path} holds no model: neither config.json with safetensors nor a GGUF file; check the path."
    )


def headers_for(source: str, options: Fetch) -> dict[str, str]:
    """Return the headers of a request for a single file: the token, where its host may see it."""
    at_hub = urlsplit(source).netloc == urlsplit(hub.endpoint()).netloc
    send = options.token and (options.token_for_https or at_hub)
    return {"Authorization": f"Bearer {options.token}"} if send else {}


def _fetch_listed(source: str, to: Path, options: Fetch, downloader: Downloader) -> None:
    if (files := _manifest(to, source, options.revision)) is not None:
        log.info("The model is already here.", extra={"path": str(to), "files": len(files)})
        _verify(to, files, options)
        return
    listing = listing_of(source, options, downloader)
    total = sum(file.size or 0 for file in (*listing.files, *(each.file for each in listing.archives)))
    log.info("Fetching.", extra={"source": source, "commit": listing.commit, "bytes": total})
    if options.tally is not None:
        options.tally.expect(total)
    same = _take_up(to, listing.commit)
    names = [PurePosixPath(file.name).name for file in listing.files]
    for file, name in zip(listing.files, names, strict=True):
        _fetch_file(file, to / name, downloader, options.tally, same=same)
    for archive in listing.archives:
        names += _fetch_archive(archive, to, downloader, options.tally)
    _verify(to, names, options)
    _write_manifest(to, source, options.revision, listing, names)


def _fetch_archive(archive: Archive, to: Path, downloader: Downloader, tally: Tally | None) -> list[str]:
    """Fetch an archive's files, and keep those alone; return their names."""
    packed, note = to / archive.file.name, to / f".{archive.file.name}.unpacked"
    if note.is_file():
        return [name for name in note.read_text().split("\n") if name]
    _fetch_file(archive.file, packed, downloader, tally)
    names = unpack(packed, to, compressed=archive.compressed)
    packed.unlink()
    note.write_text("\n".join(names))
    return names


def _verify(to: Path, names: Collection[str], options: Fetch) -> None:
    if options.signers is not None:
        from slipway_engine.sources.signature import verify

        log.info("Verifying the signature.", extra={"files": len(names)})
        verify(to, names, options.signers)


def _take_up(to: Path, commit: str) -> bool:
    """Return whether what lies in the directory already is of this version; note that from now on it is."""
    to.mkdir(parents=True, exist_ok=True)
    note = to / _STARTED
    same = note.is_file() and note.read_text(errors="replace") == commit
    note.write_text(commit)
    return same


def _fetch_url(source: str, to: Path, options: Fetch, downloader: Downloader) -> None:
    name = unquote(PurePosixPath(urlsplit(source).path).name)
    if not re.fullmatch(r"[\w.+ -]+\.gguf", name):
        raise ModelUnsupported(
            f"{source!r} names no GGUF file; over https:// one file is fetched: .../NAME.gguf."
        )
    headers = headers_for(source, options)
    if (to / name).exists():
        log.info("The model is already here.", extra={"path": str(to / name)})
    else:
        _fetch_one(RemoteFile(source, name, headers=headers), to, downloader, options.tally)
    if options.signers is not None:
        _fetch_signature(RemoteFile(f"{source}.sig", f"{name}.sig", headers=headers), to, downloader)
        _verify(to, [name, f"{name}.sig"], options)


def _fetch_signature(file: RemoteFile, to: Path, downloader: Downloader) -> None:
    try:
        _fetch_file(file, to / file.name, downloader, None)
    except ModelNotFound as error:
        raise ModelUnsigned(
            f"{file.url} does not exist, and the class requires a signature; put it beside the model's file."
        ) from error


def _fetch_one(file: RemoteFile, to: Path, downloader: Downloader, tally: Tally | None) -> None:
    source, name = file.url, file.name
    _fetch_file(file, to / name, downloader, tally)
    with (to / name).open("rb") as content:
        if content.read(4) != b"GGUF":
            (to / name).unlink()
            raise ModelUnsupported(
                f"{source!r} answered with something that is no GGUF file; check the address."
            )


def _fetch_file(
    file: RemoteFile, target: Path, downloader: Downloader, tally: Tally | None, *, same: bool = False
) -> None:
    """Fetch a file that is not there; `same`: what is there by its name and size is of this version."""
    same_size = target.is_file() and target.stat().st_size == file.size
    if same_size and (file.digests or same) and mismatch(target, file.digests) is None:
        if tally is not None:
            tally.note(file.name, target.stat().st_size)
        return
    with transfer(file.name) as report:
        downloader.fetch(file, target, tally.beside(file.name, report) if tally is not None else report)


def _manifest(to: Path, source: str, revision: str | None) -> dict[str, int] | None:
    """Return the files of an earlier, complete fetch of the same, where all are still there."""
    try:
        noted = json.loads((to / _MANIFEST).read_text())
        files: dict[str, int] = noted["files"]
        same = (noted["source"], noted["revision"]) == (source, revision)
        whole = all((to / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return files if same and whole else None


def _write_manifest(
    to: Path, source: str, revision: str | None, listing: Listing, names: Collection[str]
) -> None:
    known = {PurePosixPath(file.name).name: file.digests.get("SHA-256") for file in listing.files}
    noted = {
        "source": source,
        "revision": revision,
        "commit": listing.commit,
        "files": {name: (to / name).stat().st_size for name in names},
        # A source's own SHA-256 was checked; where it has none, this is what was brought.
        "sha256": {name: known.get(name) or sha256_of(to / name) for name in names},
    }
    (to / _MANIFEST).write_text(json.dumps(noted, indent=1))
