"""How far a whole fetch has come, for whoever asks over HTTP: a pod without rights on any API can still tell.

`GET /progress` answers `{"bytes": .., "total": .., "rate": ..}` (bytes, bytes or null, bytes a second over
the last seconds). Nothing else is served, nothing that is sent is read.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from slipway_engine.sources.progress import Report

PATH: Final = "/progress"
_WINDOW_SECONDS: Final = 15.0


class Tally:
    """Bytes that are there, of all files together; written by the fetch, read by the server's threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._total: int | None = None
        self._files: dict[str, int] = {}
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])

    def expect(self, total: int | None) -> None:
        """Note how many bytes there are to be; None where nobody says."""
        with self._lock:
            self._total = total

    def note(self, name: str, done: int, total: int | None = None) -> None:
        """Note that `done` bytes of a file are there; `total` counts where `expect` was told nothing."""
        with self._lock:
            self._files[name] = done
            if self._total is None and total is not None:
                self._total = total
            now = self._clock()
            if now - self._seen[-1][0] >= 1.0:
                self._seen.append((now, sum(self._files.values())))
            while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW_SECONDS:
                self._seen.popleft()

    def beside(self, name: str, report: Report) -> Report:
        """Return a report that tells both `report` and this tally."""

        def both(done: int, total: int | None) -> None:
            self.note(name, done, total)
            report(done, total)

        return both

    def as_json(self) -> dict[str, int | None]:
        """Return the present state."""
        with self._lock:
            done = sum(self._files.values())
            then, before = self._seen[0]
            elapsed = self._clock() - then
            rate = max(done - before, 0) / elapsed if elapsed > 0 else 0.0
            return {"bytes": done, "total": self._total, "rate": round(rate)}


@contextmanager
def serving(tally: Tally, host: str, port: int) -> Iterator[int]:
    """Serve a tally while the context lasts; give the port."""
    server = _Server((host, port), tally)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], tally: Tally) -> None:
        super().__init__(address, _Handler)
        self.tally = tally


class _Handler(BaseHTTPRequestHandler):
    timeout = 5
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: the log belongs to the fetch."""

    def do_GET(self) -> None:
        """Answer the one path there is."""
        known = self.path == PATH
        body = json.dumps(self.server.tally.as_json()).encode() if known else b""
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
