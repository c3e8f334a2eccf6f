"""A prefix of a bucket of any S3-compatible store, or one GGUF file of it.

A bucket has no version of the whole, so the listing's is a digest over its files' ETags; each file is asked
for with `If-Match`, so that what is replaced meanwhile is noticed. A file's content is checked by the
checksum that the store keeps of all of it, or by its ETag where that is an MD5: that of a file that was
uploaded in parts is not, nor is that of one that is encrypted with a key service's key.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote, urlencode

import httpx

from slipway_engine.errors import DownloadFailed, InvalidArgument, ModelAccessDenied, ModelNotFound
from slipway_engine.sources import markup
from slipway_engine.sources.aws import signed
from slipway_engine.sources.aws_keys import KeyChain, domain
from slipway_engine.sources.download import Answer, Downloader, RemoteFile, shown
from slipway_engine.sources.listing import Listing, choose, version_of

MAX_OBJECTS: Final = 20_000
HINT: Final = (
    "give keys that may list and read the bucket (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, keys of the "
    "Secret "
    "in model.credentials.secretName, or a service account with a role)"
)
_SOURCE = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9._-]+)(/(?P<path>[\w./+-]*))?", re.ASCII)
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_CHECKSUMS: Final = {
    "x-amz-checksum-sha256": ("SHA-256", 32),
    "x-amz-checksum-crc64nvme": ("CRC-64/NVME", 8),
    "x-amz-checksum-crc32c": ("CRC-32C", 4),
    "x-amz-checksum-crc32": ("CRC-32", 4),
}
_TOLD = frozenset({301, 307, 400, 403, 404})
_DENIED = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "XAdminUserNotFound",  # versitygw's, with 404
    }
)


@dataclass(frozen=True, slots=True)
class _Object:
    key: str
    size: int
    etag: str


def endpoint() -> str | None:
    """Return the address of the store that was set in place of Amazon's."""
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return given.rstrip("/") if given else None


def list_files(source: str, downloader: Downloader) -> Listing:
    """Return what the model needs of a prefix. Raises EngineError."""
    found = _SOURCE.fullmatch(source)
    if found is None or ".." in source:
        raise InvalidArgument(f"{source!r} is no place in a bucket; write s3://BUCKET/PATH.")
    path = (found["path"] or "").strip("/")
    store = _Store(found["bucket"], downloader)
    folder, _, file = path.rpartition("/") if path.endswith(".gguf") else (path, "", "")
    prefix = f"{folder}/" if folder else ""
    objects = {each.key.removeprefix(prefix): each for each in store.objects(prefix)}
    if not objects:
        raise ModelNotFound(f"{source} has no files; check bucket and path.")
    where = f"s3://{found['bucket']}/{folder}".rstrip("/")
    chosen = [(name, objects[name]) for name in choose(where, list(objects), file or None)]
    files = tuple(store.file(name, each) for name, each in chosen)
    return Listing(version_of((name, each.size, each.etag) for name, each in chosen), files)


class _Store:
    """One bucket: its address, and requests signed for its region."""

    def __init__(self, bucket: str, downloader: Downloader) -> None:
        self._bucket, self._downloader = bucket, downloader
        named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self._region = _region(named)
        self._chain = KeyChain(self._region)

    def objects(self, prefix: str) -> list[_Object]:
        """Return the objects directly below a prefix."""
        found: list[_Object] = []
        more: dict[str, str] = {}
        while True:
            query = {"delimiter": "/", "encoding-type": "url", "list-type": "2", "prefix": prefix, **more}
            root = markup.parse(self._list(query).body, f"s3://{self._bucket}")
            for entry in root.iterfind("{*}Contents"):
                size, key = markup.text_of(entry, "Size"), unquote(markup.text_of(entry, "Key"))
                if size.isdecimal() and len(size) < 19 and key.startswith(prefix) and key != prefix:
                    found.append(_Object(key, int(size), markup.text_of(entry, "ETag")))
            token = markup.text_of(root, "NextContinuationToken")
            if markup.text_of(root, "IsTruncated") != "true" or not token:
                return found
            if len(found) > MAX_OBJECTS:
                raise InvalidArgument(
                    f"s3://{self._bucket}/{prefix} has more than {MAX_OBJECTS} files; name the model's own "
                    f"folder."
                )
            more = {"continuation-token": token}

    def file(self, name: str, each: _Object) -> RemoteFile:
        """Return an object as a file, with what the store knows of its content."""
        url = self._url(f"/{quote(each.key, safe='/~')}")
        same = {"If-Match": each.etag} if each.etag else {}
        ask = RemoteFile(url, name, sign=self._with_checksums, headers=same, redirects=False, hint=HINT)
        told = self._downloader.ask(ask, "HEAD")
        digests = _digests(self._bucket, told.headers, each.etag)
        return RemoteFile(url, name, each.size, digests, same, self._sign, redirects=False, hint=HINT)

    def _list(self, query: Mapping[str, str]) -> Answer:
        for _ in range(2):
            url = self._url("/") + "?" + urlencode(sorted(query.items()), quote_via=quote, safe="~")
            file = RemoteFile(url, f"s3://{self._bucket}", sign=self._sign, redirects=False, hint=HINT)
            answer = self._downloader.ask(file, accept=_TOLD)
            if answer.status not in _TOLD:
                return answer
            told = answer.headers.get("x-amz-bucket-region", self._region)
            if told == self._region or endpoint() is not None:
                break
            self._region = _region(told)  # a bucket tells in which region it is; keys are good for all
        raise _refusal(self._bucket, answer)

    def _url(self, path: str) -> str:
        if (given := endpoint()) is not None:
            return f"{given}/{self._bucket}{path}"
        host = f"s3.{self._region}.{domain(self._region)}"
        # A certificate for *.s3... covers no name with further dots.
        return (
            f"https://{host}/{self._bucket}{path}"
            if "." in self._bucket
            else f"https://{self._bucket}.{host}{path}"
        )

    def _sign(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        keys = self._chain.current()
        return (
            headers if keys is None else signed(method, url, headers, keys, self._region, datetime.now(UTC))
        )

    def _with_checksums(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        return self._sign(method, url, {**headers, "x-amz-checksum-mode": "ENABLED"})


def _region(name: str) -> str:
    """Return a region's name, which becomes a part of a host's. Raises InvalidArgument."""
    if _REGION.fullmatch(name) is None:
        raise InvalidArgument(f"{name[:64]!r} is no region; write one as eu-central-1 (AWS_REGION).")
    return name


def _digests(bucket: str, headers: httpx.Headers, etag: str) -> dict[str, str]:
    """Return what a store says of a whole object's content."""
    found: dict[str, str] = {}
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT":
        for header, (kind, length) in _CHECKSUMS.items():
            if (value := _decoded(headers.get(header, ""))) is not None and len(value) == length:
                found[kind] = value.hex()
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    customers = "x-amz-server-side-encryption-customer-algorithm" in headers
    digest = etag.strip('"')
    if not found and plain and not customers and not bucket.endswith("--x-s3") and _MD5.fullmatch(digest):
        found["MD5"] = digest
    return found


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None  # of an upload in parts: DIGEST-COUNT


def _refusal(bucket: str, answer: Answer) -> Exception:
    where = f"s3://{bucket} at {shown(endpoint() or '') or 'Amazon'}"
    code = message = ""
    if b"<Error" in answer.body:
        error = markup.parse(answer.body, where)
        code, message = markup.text_of(error, "Code"), markup.text_of(error, "Message")
    if code in _DENIED or answer.status == 403:
        return ModelAccessDenied(f"{where} is not open to these keys ({code or 'HTTP 403'}); {HINT}.")
    if code in ("NoSuchBucket", "NoSuchKey") or (answer.status == 404 and not code):
        return ModelNotFound(f"{where} does not exist; check the bucket's name, and the endpoint.")
    said = ": ".join(part for part in (code, message[:200]) if part) or f"HTTP {answer.status}"
    return DownloadFailed(f"{where} does not list its files ({said}); check region and endpoint.")
