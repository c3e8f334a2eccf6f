"""A prefix of a Google Cloud Storage bucket, or one GGUF file of it, by the JSON API.

Each file is asked for in the generation that was listed, and its content is checked by MD5, or by CRC-32C
where an object was composed of parts and has no MD5.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from slipway_engine.errors import InvalidArgument, ModelNotFound
from slipway_engine.sources.download import Downloader, RemoteFile
from slipway_engine.sources.google import Tokens
from slipway_engine.sources.identity import in_json
from slipway_engine.sources.listing import Listing, choose, version_of

ENDPOINT: Final = "STORAGE_EMULATOR_HOST"
"""The variable by which Google's own libraries are led to another address."""
DEFAULT_ENDPOINT: Final = "https://storage.googleapis.com"
MAX_OBJECTS: Final = 20_000
HINT: Final = (
    "give an identity that may list and read the bucket (a key file under GOOGLE_APPLICATION_CREDENTIALS in "
    "the "
    "Secret of model.credentials.secretName, or a service account with workload identity)"
)
_SOURCE = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]+)(/(?P<path>[\w./+-]*))?", re.ASCII)
_FIELDS: Final = "items(name,size,md5Hash,crc32c,generation),nextPageToken"


def list_files(source: str, downloader: Downloader) -> Listing:
    """Return what the model needs of a prefix. Raises EngineError."""
    found = _SOURCE.fullmatch(source)
    if found is None or ".." in source:
        raise InvalidArgument(f"{source!r} is no place in a bucket; write gs://BUCKET/PATH.")
    path = (found["path"] or "").strip("/")
    folder, _, file = path.rpartition("/") if path.endswith(".gguf") else (path, "", "")
    prefix = f"{folder}/" if folder else ""
    base = (
        f"{os.environ.get(ENDPOINT) or DEFAULT_ENDPOINT}".rstrip("/") + f"/storage/v1/b/{found['bucket']}/o"
    )
    tokens = Tokens(downloader)
    objects = {
        str(each["name"]).removeprefix(prefix): each for each in _objects(base, prefix, tokens, downloader)
    }
    if not objects:
        raise ModelNotFound(f"{source} has no files; check bucket and path.")
    where = f"gs://{found['bucket']}/{folder}".rstrip("/")
    chosen = [(name, objects[name]) for name in choose(where, list(objects), file or None)]
    files = tuple(_file(base, name, each, tokens) for name, each in chosen)
    return Listing(
        version_of(
            (f.name, f.size or 0, str(each["generation"])) for f, (_, each) in zip(files, chosen, strict=True)
        ),
        files,
    )


def _objects(base: str, prefix: str, tokens: Tokens, downloader: Downloader) -> list[dict[str, Any]]:
    """Return the objects directly below a prefix."""
    found: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        query = {"delimiter": "/", "prefix": prefix, "fields": _FIELDS, **more}
        url = f"{base}?{urlencode(query)}"
        told = in_json(downloader.ask(RemoteFile(url, base, sign=tokens.sign, hint=HINT)).body, base)
        items = told.get("items") or []
        found += [each for each in items if isinstance(each, dict) and _usable(each, prefix)]
        if not (token := told.get("nextPageToken")):
            return found
        if len(found) > MAX_OBJECTS:
            raise InvalidArgument(
                f"{base} has more than {MAX_OBJECTS} files below {prefix}; name the model's own folder."
            )
        more = {"pageToken": str(token)}


def _usable(each: Mapping[str, Any], prefix: str) -> bool:
    name, size, generation = (str(each.get(key, "")) for key in ("name", "size", "generation"))
    return (
        name.startswith(prefix)
        and name != prefix
        and size.isdecimal()
        and len(size) < 19
        and generation.isdecimal()
    )


def _file(base: str, name: str, each: Mapping[str, Any], tokens: Tokens) -> RemoteFile:
    url = f"{base}/{quote(str(each['name']), safe='')}?alt=media&generation={each['generation']}"
    digests = {}
    for kind, key, length in (("MD5", "md5Hash", 16), ("CRC-32C", "crc32c", 4)):
        try:
            value = base64.b64decode(str(each.get(key, "")), validate=True)
        except (binascii.Error, ValueError):
            continue
        if len(value) == length:
            digests[kind] = value.hex()
    return RemoteFile(url, name, int(each["size"]), digests, sign=tokens.sign, hint=HINT)
