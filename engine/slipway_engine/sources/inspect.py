"""What a source holds, told without its weights: configuration, headers, commit, digest, licence.

Of a safetensors model config.json and the header of each shard are read, of a GGUF file its header; over a
network by HTTP ranges, so that a model of any size costs some megabytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from slipway_api.facts import (
    FactsError,
    ModelFacts,
    TensorEntry,
    from_gguf,
    from_hugging_face,
    safetensors_tensors,
)
from slipway_api.inspection import Inspection
from slipway_engine.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading.gguf import MAGIC, Value, read_header
from slipway_engine.loading.limits import MAX_JSON
from slipway_engine.sources import fetch as sources
from slipway_engine.sources import places
from slipway_engine.sources.archives import look
from slipway_engine.sources.digests import strongest
from slipway_engine.sources.download import Downloader, RemoteFile
from slipway_engine.sources.listing import Listing
from slipway_engine.sources.ranges import Pieces, local_pieces, remote_pieces

log = logging.getLogger(__name__)

MAX_SHARDS: Final = 4096
_LENGTH: Final = 8
"""Bytes of the little-endian length before a safetensors header."""

Open = Callable[[str], Pieces]


def inspect(source: str, options: places.Fetch, downloader: Downloader | None = None) -> Inspection:
    """Return what a source or a local path holds. Raises EngineError."""
    if not places.is_remote(source):
        return _local(sources.locate(sources.local_path(source)))
    try:
        allow_http = options.allow_http or places.plain_http_meant(source)
        with downloader or Downloader(allow_http=allow_http) as opened:
            if places.is_listed(source):
                return _repository(source, options, opened)
            return _url(source, options, opened)
    except FactsError as error:
        raise ModelUnsupported(f"{source}: {error}") from error


def _repository(source: str, options: places.Fetch, downloader: Downloader) -> Inspection:
    listing = places.listing_of(source, options, downloader)
    by_name = {PurePosixPath(file.name).name: file for file in listing.files}
    inside: dict[str, Pieces] = {}
    for archive in listing.archives:
        inside |= look(archive, downloader)

    def open_file(name: str) -> Pieces:
        return inside[name] if name in inside else remote_pieces(by_name[name], downloader)

    facts, metadata = _facts([*by_name, *inside], open_file)
    return Inspection(
        commit=listing.commit,
        digest=digest_of([*listing.files, *(archive.file for archive in listing.archives)]),
        license=_license(listing.license, metadata),
        size=_room(listing, inside),
        facts=facts,
    )


def _room(listing: Listing, inside: Mapping[str, Pieces]) -> int:
    """Return the bytes that the files take on a volume, with the largest archive while it is unpacked."""
    packed = max((archive.file.size or 0 for archive in listing.archives), default=0)
    return sum(file.size or 0 for file in listing.files) + sum(map(len, inside.values())) + packed


def _url(source: str, options: places.Fetch, downloader: Downloader) -> Inspection:
    name = unquote(PurePosixPath(urlsplit(source).path).name)
    pieces = remote_pieces(RemoteFile(source, name, headers=sources.headers_for(source, options)), downloader)
    facts, metadata = _facts([name], lambda _: pieces)
    return Inspection(license=_license(None, metadata), size=len(pieces), facts=facts)


def _local(path: Path) -> Inspection:
    directory = path if path.is_dir() else path.parent
    names = [file.name for file in path.iterdir()] if path.is_dir() else [path.name]
    try:
        facts, metadata = _facts(names, lambda name: local_pieces(directory / name))
    except FactsError as error:
        raise ModelUnsupported(f"{path}: {error}") from error
    return Inspection(license=_license(None, metadata), facts=facts)


def digest_of(files: Iterable[RemoteFile]) -> str | None:
    """Return one digest of all files as the source describes them; None where it has a digest for none."""
    known = [(file, strongest(file.digests)) for file in files]
    if not any(digest for _, digest in known):
        return None
    lines = [f"{file.name}\0{file.size}\0{digest[1] if digest else ''}\n" for file, digest in known]
    return "sha256:" + hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _facts(names: Sequence[str], open_file: Open) -> tuple[ModelFacts, dict[str, Value]]:
    """Return the facts of the model that these files are, and its metadata where one of them is a GGUF."""
    packed = [name for name in names if name.endswith(".gguf")]
    shards = sorted(name for name in names if name.endswith(".safetensors"))
    if shards and "config.json" in names:
        if len(shards) > MAX_SHARDS:
            raise ModelUnsupported(f"the model has {len(shards)} shards, more than {MAX_SHARDS}.")
        tensors = [tensor for shard in shards for tensor in _safetensors(shard, open_file(shard))]
        return from_hugging_face(_json("config.json", open_file("config.json")), tensors), {}
    if not packed:
        raise ModelNotFound(
            "there is neither config.json with safetensors nor a GGUF file; check the source."
        )
    pieces = open_file(packed[0])
    if len(pieces) < len(MAGIC) or bytes(pieces[0 : len(MAGIC)]) != MAGIC:
        raise ModelUnsupported(f"{packed[0]} is no GGUF file; check the address.")
    metadata, table = read_header(Path(packed[0]), pieces)
    entries = (TensorEntry(t.name, t.type.name, t.shape, t.nbytes) for t in table.values())
    return from_gguf(metadata, entries), metadata


def _safetensors(name: str, pieces: Pieces) -> Iterable[TensorEntry]:
    if len(pieces) < _LENGTH:
        raise ModelCorrupt(f"{name} holds {len(pieces)} bytes, too few for a safetensors header.")
    length = int.from_bytes(pieces[0:_LENGTH], "little")
    if not 2 <= length <= min(MAX_JSON, len(pieces) - _LENGTH):
        raise ModelCorrupt(
            f"{name} claims a header of {length} bytes in a file of {len(pieces)}; fetch it again."
        )
    return safetensors_tensors(_parsed(name, bytes(pieces[_LENGTH : _LENGTH + length])))


def _json(name: str, pieces: Pieces) -> dict[str, Any]:
    if len(pieces) > MAX_JSON:
        raise ModelCorrupt(f"{name} is larger than {MAX_JSON} bytes, too large for a configuration.")
    return _parsed(name, bytes(pieces[0 : len(pieces)]))


def _parsed(name: str, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{name} holds no JSON where it should ({str(error)[:120]}).") from error
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{name} holds no JSON object.")
    return value


def _license(named: str | None, metadata: dict[str, Value]) -> str | None:
    """Return the licence as printable ASCII of bounded length; the source's own word goes first."""
    given = named or metadata.get("general.license")
    text = "".join(c for c in given if " " <= c <= "~")[:128].strip() if isinstance(given, str) else ""
    return text or None
