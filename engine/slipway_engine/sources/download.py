"""One file over HTTP: resumed where it broke off, bounded in size, never waited for without end."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeVar

import httpx

from slipway_engine.errors import (
    DownloadFailed,
    DownloadStalled,
    InvalidArgument,
    ModelAccessDenied,
    ModelChanged,
    ModelCorrupt,
    ModelNotFound,
    VolumeFull,
)
from slipway_engine.sources.digests import mismatch
from slipway_engine.sources.peers import SOURCE_HOST, check_peer, is_loopback
from slipway_engine.sources.progress import Report
from slipway_engine.sources.redirects import check_redirect

log = logging.getLogger(__name__)
T = TypeVar("T")

_SPARE_BYTES = 64 << 20
MAX_ANSWER: Final = 8 << 20
CHANGED: Final = "set rollout.restartToken of the object to take what is there now, or fetch again"
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds.

    `attempts` counts tries in a row that brought fewer than `least_bytes`. A transfer that brings
    fewer than that in `window` counts as stalled, even where a byte comes now and then.
    """

    connect: float = 10.0
    read: float = 30.0
    window: float = 60.0
    least_bytes: int = 64 << 10
    attempts: int = 6
    first_pause: float = 1.0
    longest_pause: float = 30.0


class Sign(Protocol):
    """Who asks: gives the headers that open one request, made anew for each since what they hold expires."""

    def __call__(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return `headers` and those that say who asks. Raises EngineError."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch; `size` and `digests` (see `sources.digests`) are checked where known.

    `redirects` says whether the source may send its reader elsewhere; `hint` names what holds its
    credentials.
    """

    url: str
    name: str
    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    sign: Sign | None = None
    redirects: bool = True
    hint: str = "give a token that may read it (HF_TOKEN, or model.credentials of the object)"


@dataclass(frozen=True, slots=True)
class Answer:
    """A short answer, read whole."""

    status: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one attempt goes on: from byte `start` of `size`, into `part`."""

    part: Path
    size: int | None
    validator: str
    start: int


class _Transient(Exception):
    """This attempt failed; the next may not. `pause` is what the server asked for, in seconds."""

    def __init__(self, why: str, pause: float = 0.0, *, stalled: bool = False) -> None:
        super().__init__(why)
        self.pause, self.stalled = pause, stalled


class Downloader:
    """Fetches files; `allow_http` permits plain HTTP to hosts other than this machine."""

    def __init__(
        self,
        patience: Patience | None = None,
        *,
        allow_http: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._patience = patience or Patience()
        self._allow_http = allow_http
        self._sleep = sleep
        self._http = httpx.Client(
            follow_redirects=True,
            timeout=httpx.Timeout(self._patience.read, connect=self._patience.connect),
            event_hooks={"request": [self._check_scheme], "response": [check_peer, check_redirect]},
            headers={"Accept-Encoding": "identity"},  # the bytes on the wire are the bytes of the file
        )

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def fetch(self, file: RemoteFile, target: Path, report: Report) -> None:
        """Bring the file to `target`, whole and checked. Raises EngineError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        failures, pause, have = 0, self._patience.first_pause, 0
        while True:
            try:
                self._attempt(file, target, report)
                return
            except _Transient as error:
                now = sum(part.stat().st_size for part in _parts(target))
                forward = now - have >= self._patience.least_bytes
                failures, have = (1, now) if forward else (failures + 1, have)
                if failures >= self._patience.attempts:
                    raise (DownloadStalled if error.stalled else DownloadFailed)(
                        f"{shown(file.url)} could not be fetched: {error} "
                        f"({failures} attempts in a row); check the network and try again."
                    ) from error
                log.warning("Fetching again.", extra={"file": file.name, "because": str(error)})
                self._sleep(max(error.pause, pause * random.uniform(0.5, 1)))  # noqa: S311 - spreads retries
                pause = min(2 * pause, self._patience.longest_pause)

    def read(self, file: RemoteFile, start: int, count: int) -> tuple[bytes, httpx.Response]:
        """Return at most `count` bytes from `start`, and the (closed) response. Raises EngineError.

        A server that ignores ranges answers from the first byte on: the response's status says which it was.
        """
        headers = {"Range": f"bytes={start}-{start + count - 1}"}

        def attempt() -> tuple[bytes, httpx.Response]:
            with self._open(file, headers) as response:
                return _at_most(count, response), response

        return self._again(file, attempt)

    def ask(
        self, file: RemoteFile, method: str = "GET", *, most: int = MAX_ANSWER, accept: Collection[int] = ()
    ) -> Answer:
        """Return a short answer of at most `most` bytes; statuses in `accept` raise nothing.

        Raises EngineError.
        """

        def attempt() -> Answer:
            with self._open(file, method=method, accept=accept) as response:
                body = _at_most(most + 1, response)
                if len(body) > most:
                    raise ModelCorrupt(f"{shown(file.url)} answers with more than {most} bytes.")
                return Answer(response.status_code, response.headers, body)

        return self._again(file, attempt)

    @contextmanager
    def reading(self, file: RemoteFile) -> Iterator[BinaryIO]:
        """Give a file as a stream, which is not taken up again where it breaks. Raises EngineError."""
        try:
            with self._open(file) as response:
                yield io.BufferedReader(_Stream(_pieces(response)), 1 << 20)
        except _Transient as error:
            raise DownloadFailed(f"{shown(file.url)} could not be read: {error}; try again.") from error

    def _again(self, file: RemoteFile, attempt: Callable[[], T]) -> T:
        """Return what an attempt returns, made again where it may succeed later."""
        for failures in range(1, self._patience.attempts + 1):
            try:
                return attempt()
            except _Transient as error:
                if failures == self._patience.attempts:
                    raise DownloadFailed(
                        f"{shown(file.url)} could not be read: {error} ({failures} attempts); check the "
                        "network and try again."
                    ) from error
                self._sleep(max(error.pause, self._patience.first_pause * 2 ** (failures - 1)))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, file: RemoteFile, target: Path, report: Report) -> None:
        with self._open(file) as response:
            plan = _plan(file, target, response)
            self._check_room(file, target.parent, plan.size and plan.size - plan.start)
            _drop_others(target, keep=plan.part)
            if not plan.start:
                self._receive(file, response, plan, report)
        if plan.start and plan.start != plan.size:
            self._resume(file, plan, report)
        self._finish(file, plan.part, target)

    def _resume(self, file: RemoteFile, plan: _Plan, report: Report) -> None:
        headers = {"Range": f"bytes={plan.start}-", "If-Range": plan.validator}
        with self._open(file, headers) as response:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            continues = response.status_code == 206 and found is not None and int(found[1]) == plan.start
            self._receive(file, response, plan if continues else replace(plan, start=0), report)

    def _receive(self, file: RemoteFile, response: httpx.Response, plan: _Plan, report: Report) -> None:
        done, size = plan.start, plan.size
        pace = _Pace(self._patience, done)
        with plan.part.open("ab" if plan.start else "wb") as out:
            report(done, size)
            for piece in _pieces(response):
                done += len(piece)
                if size is None:
                    self._check_room(file, plan.part.parent, len(piece))
                elif done > size:
                    raise ModelCorrupt(f"{shown(file.url)} brings more than the {size} bytes it announced.")
                out.write(piece)
                pace.check(done)
                report(done, size)
        if size is not None and done < size:
            raise _Transient(f"the connection ended after {done} of {size} bytes")

    def _finish(self, file: RemoteFile, part: Path, target: Path) -> None:
        if (wrong := mismatch(part, file.digests)) is not None:
            kind, found, expected = wrong
            part.unlink()
            raise ModelCorrupt(
                f"{shown(file.url)} has the {kind} {found[:16]}..., expected {expected[:16]}...; "
                "the source or what lies between has changed it: fetch it again."
            )
        part.replace(target)

    @contextmanager
    def _open(
        self,
        file: RemoteFile,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        accept: Collection[int] = (),
    ) -> Iterator[httpx.Response]:
        given = file.sign(method, file.url, file.headers) if file.sign is not None else file.headers
        try:
            with self._http.stream(
                method,
                file.url,
                headers={**given, **(headers or {})},
                extensions={SOURCE_HOST: httpx.URL(file.url).host},
                follow_redirects=file.redirects,
            ) as response:
                if response.status_code not in accept:
                    _check_status(file, response)
                yield response
        except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise DownloadFailed(
                f"{shown(file.url)} cannot be followed: {error}; check the address."
            ) from error
        except httpx.LocalProtocolError:
            raise InvalidArgument(  # the library's words would show what it will not send
                f"{shown(file.url)} cannot be asked: a header of the request is none; check the credentials."
            ) from None
        except httpx.TransportError as error:
            raise _Transient(f"{type(error).__name__}: {error}".rstrip(": ")) from error

    def _check_scheme(self, request: httpx.Request) -> None:
        url = request.url
        if url.scheme == "http" and not self._allow_http and not is_loopback(url.host):
            raise InvalidArgument(
                f"{shown(str(url))} is plain HTTP, which anybody on the way can change; "
                "use https://, or add --allow-http where you trust the network."
            )

    def _check_room(self, file: RemoteFile, directory: Path, size: int | None) -> None:
        free = shutil.disk_usage(directory).free
        if (size or 0) + _SPARE_BYTES > free:
            raise VolumeFull(
                f"{file.name} needs {(size or 0) / 1e9:.2f} GB more and {directory} has {free / 1e9:.2f} GB; "
                "give the volume more room."
            )


class _Pace:
    """Notices a transfer that goes on but does not come forward."""

    def __init__(self, patience: Patience, done: int) -> None:
        self._patience = patience
        self._since = time.monotonic()
        self._then = done

    def check(self, done: int) -> None:
        now = time.monotonic()
        if done - self._then >= self._patience.least_bytes:
            self._since, self._then = now, done
        elif now - self._since > self._patience.window:
            raise _Transient(
                f"only {done - self._then} bytes came in {now - self._since:.0f} s", stalled=True
            )


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()  # as they come: pieces of a fixed size would hide a trickle
    except httpx.TransportError as error:
        silent = isinstance(error, httpx.ReadTimeout)
        raise _Transient(f"{type(error).__name__}: {error}".rstrip(": "), stalled=silent) from error


class _Stream(io.RawIOBase):
    """Pieces of bytes as one stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _at_most(count: int, response: httpx.Response) -> bytes:
    body = bytearray()
    for piece in _pieces(response):
        body += piece
        if len(body) >= count:
            break
    return bytes(body[:count])


def _check_status(file: RemoteFile, response: httpx.Response) -> None:
    status, url = response.status_code, shown(file.url)
    if status in (200, 206):
        return
    if status in (404, 410):
        raise ModelNotFound(f"{url} does not exist (HTTP {status}); check the source and the revision.")
    if status in (401, 403):
        raise ModelAccessDenied(f"{url} is not open to these credentials (HTTP {status}); {file.hint}.")
    if status == 412:
        raise ModelChanged(f"{url} was replaced by another version meanwhile; {CHANGED}.")
    if status in _RETRIED:
        raise _Transient(f"HTTP {status}", _retry_after(response))
    raise DownloadFailed(f"{url} answered HTTP {status}; check the source.")


def _retry_after(response: httpx.Response) -> float:
    given = response.headers.get("retry-after", "")
    return min(float(given), 60.0) if given.isdecimal() and len(given) < 6 else 0.0


def _announced(file: RemoteFile, response: httpx.Response) -> int | None:
    """Return the file's size. Raises ModelCorrupt where what is announced contradicts what is known."""
    given = response.headers.get("content-length", "")
    size = int(given) if given.isdecimal() and len(given) < 19 else None
    if file.size is not None and size is not None and size != file.size:
        raise ModelCorrupt(
            f"{shown(file.url)} announces {size} bytes, its hub says {file.size}; fetch it again."
        )
    return file.size if file.size is not None else size


def _plan(file: RemoteFile, target: Path, response: httpx.Response) -> _Plan:
    """Return where the unfinished file lies, and how much of it can be kept."""
    size = _announced(file, response)
    validator = response.headers.get("etag") or response.headers.get("last-modified") or ""
    # The name tells versions of the source apart, so that two are never put together.
    version = hashlib.sha256(f"{file.url}\n{validator}\n{size}".encode()).hexdigest()[:16]
    part = target.with_name(f".{target.name}.{version}.part")
    kept = part.stat().st_size if validator and size is not None and part.exists() else 0
    return _Plan(part, size, validator, kept if size is not None and kept <= size else 0)


def _drop_others(target: Path, keep: Path) -> None:
    """Remove what is left of other versions of the file."""
    for part in _parts(target):
        if part != keep:
            part.unlink()


def _parts(target: Path) -> list[Path]:
    return [path for path in target.parent.glob("*.part") if path.name.startswith(f".{target.name}.")]


def shown(url: str) -> str:
    """Return a URL without what may be secret in it."""
    scheme, _, rest = url.split("?", 1)[0].split("#", 1)[0].rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{'://' if scheme else ''}{host.rpartition('@')[2]}{slash}{path}"
