"""A source, whatever its scheme, to a model's path on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from slipway_engine.errors import EngineError, InvalidArgument, ModelNotFound, ModelUnsupported, VolumeFull
from slipway_engine.sources import hub
from slipway_engine.sources.download import Downloader, RemoteFile, sha256_of
from slipway_engine.sources.progress import transfer
from slipway_engine.sources.tally import Tally

log = logging.getLogger(__name__)

_MANIFEST = ".slipway-model.json"
_HUB = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(/(?P<file>[\w./+-]+\.gguf))?", re.ASCII)
_FORMS = "hf://ORG/NAME[/FILE.gguf], https://HOST/PATH.gguf, file:///PATH, or a path"


@dataclass(frozen=True, slots=True)
class Fetch:
    """How to fetch. `token_for_https` sends the token to the host of an https:// source too.

    `tally` is told how far all files together have come.
    """

    revision: str | None = None
    token: str | None = None
    token_for_https: bool = False
    allow_http: bool = False
    tally: Tally | None = None


def is_remote(source: str) -> bool:
    """Return whether the source has to be fetched over a network."""
    return source.startswith(("hf://", "https://", "http://"))


def fetch(source: str, to: Path, options: Fetch, downloader: Downloader | None = None) -> Path:
    """Bring a source to a directory (nothing is copied where it is local); return the model's path.

    What is already there and whole is not fetched again. Raises EngineError.
    """
    if options.revision is not None and not source.startswith("hf://"):
        raise InvalidArgument(f"--revision only means something for hf:// sources; {source!r} is none.")
    if not is_remote(source):
        return locate(local_path(source))
    try:
        with downloader or Downloader(allow_http=options.allow_http or plain_hub(source)) as open_downloader:
            if source.startswith("hf://"):
                _fetch_repository(source, to, options, open_downloader)
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
    if files:
        raise InvalidArgument(f"{path} holds {len(files)} GGUF files; name one, for example {files[0]}.")
    raise ModelNotFound(
        f"{path} holds no model: neither config.json with safetensors nor a GGUF file; check the path."
    )


def listing_of(source: str, options: Fetch) -> hub.Listing:
    """Return what of a repository the model needs. Raises EngineError."""
    return hub.list_files(_repository(source, options), options.token)


def headers_for(source: str, options: Fetch) -> dict[str, str]:
    """Return the headers of a request for a single file: the token, where its host may see it."""
    at_hub = urlsplit(source).netloc == urlsplit(hub.endpoint()).netloc
    send = options.token and (options.token_for_https or at_hub)
    return {"Authorization": f"Bearer {options.token}"} if send else {}


def _repository(source: str, options: Fetch) -> hub.Repository:
    found = _HUB.fullmatch(source)
    if found is None or ".." in source:
        raise InvalidArgument(f"{source!r} is no repository; write hf://ORG/NAME or hf://ORG/NAME/FILE.gguf.")
    return hub.Repository(found["name"], options.revision or "main", found["file"])


def _fetch_repository(source: str, to: Path, options: Fetch, downloader: Downloader) -> None:
    repository = _repository(source, options)
    if (files := _manifest(to, source, options.revision)) is not None:
        log.info("The model is already here.", extra={"path": str(to), "files": len(files)})
        return
    listing = hub.list_files(repository, options.token)
    total = sum(file.size or 0 for file in listing.files)
    log.info("Fetching.", extra={"source": source, "commit": listing.commit, "bytes": total})
    if options.tally is not None:
        options.tally.expect(total)
    for file in listing.files:
        _fetch_file(file, to / PurePosixPath(file.name).name, downloader, options.tally)
    _write_manifest(to, source, options.revision, listing)


def _fetch_url(source: str, to: Path, options: Fetch, downloader: Downloader) -> None:
    name = unquote(PurePosixPath(urlsplit(source).path).name)
    if not re.fullmatch(r"[\w.+ -]+\.gguf", name):
        raise ModelUnsupported(
            f"{source!r} names no GGUF file; over https:// one file is fetched: .../NAME.gguf."
        )
    headers = headers_for(source, options)
    if (to / name).exists():
        log.info("The model is already here.", extra={"path": str(to / name)})
        return
    _fetch_file(RemoteFile(source, name, headers=headers), to / name, downloader, options.tally)
    with (to / name).open("rb") as file:
        if file.read(4) != b"GGUF":
            (to / name).unlink()
            raise ModelUnsupported(
                f"{source!r} answered with something that is no GGUF file; check the address."
            )


def _fetch_file(file: RemoteFile, target: Path, downloader: Downloader, tally: Tally | None) -> None:
    same_size = target.is_file() and target.stat().st_size == file.size
    if same_size and file.sha256 is not None and sha256_of(target) == file.sha256:
        if tally is not None:
            tally.note(file.name, target.stat().st_size)
        return
    with transfer(file.name) as report:
        downloader.fetch(file, target, tally.beside(file.name, report) if tally is not None else report)


def plain_hub(source: str) -> bool:
    """Return whether the hub that was set by hand speaks plain HTTP: then that was meant."""
    return source.startswith("hf://") and hub.endpoint().startswith("http://")


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


def _write_manifest(to: Path, source: str, revision: str | None, listing: hub.Listing) -> None:
    names = [PurePosixPath(file.name).name for file in listing.files]
    noted = {
        "source": source,
        "revision": revision,
        "commit": listing.commit,
        "files": {name: (to / name).stat().st_size for name in names},
    }
    (to / _MANIFEST).write_text(json.dumps(noted, indent=1))
