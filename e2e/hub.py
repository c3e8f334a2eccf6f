"""A hub of models, and the proxy through which alone it can be reached: runs in a pod of the tests.

    python hub.py CERTIFICATE KEY MODEL.gguf

Port 8443 speaks TLS as `hub.mirror.test` and serves the repositories below as huggingface_hub expects them,
ranges included. Port 3128 is a CONNECT proxy that knows that one name, which nothing else resolves. Port 8080
tells as JSON what was asked of both.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "hub.mirror.test"
COMMIT = "5" * 40
TOKEN = "hf_good"  # noqa: S105 - a test's
FILE = "model.gguf"
ASKED: list[str] = []


class Hub(BaseHTTPRequestHandler):
    """team/open is open; team/private wants the token, team/gated its terms; team/none does not exist."""

    protocol_version = "HTTP/1.1"
    model: Path

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Answer as a hub does."""
        ASKED.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        api = re.fullmatch(r"/api/models/(team/\w+)/revision/([\w.-]+)(\?.*)?", self.path)
        file = re.fullmatch(rf"/(team/\w+)/resolve/{COMMIT}/{re.escape(FILE)}", self.path)
        found = api or file
        if found is None or found[1] == "team/none":
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif found[1] == "team/gated":
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif found[1] == "team/private" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif api is not None:
            self.answer(200, self.described(api[1]), {"Content-Type": "application/json"})
        else:
            self.file()

    def described(self, name: str) -> bytes:
        """Return what the hub's API says of a repository."""
        digest, size = digest_of(self.model), self.model.stat().st_size
        lfs = {"size": size, "sha256": digest, "pointerSize": 130}
        sibling = {"rfilename": FILE, "size": size, "blobId": "0" * 40, "lfs": lfs}
        info = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": ["license:apache-2.0"]}
        return json.dumps({**info, "siblings": [sibling]}).encode()

    def file(self) -> None:
        """Send the model, or the range that was asked for."""
        size = self.model.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), min(int(asked[2] or size) + 1, size)) if asked else (0, size)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("ETag", f'"{digest_of(self.model)}"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        with self.model.open("rb") as content:
            content.seek(start)
            left = stop - start
            while left and (piece := content.read(min(left, 1 << 20))):
                self.wfile.write(piece)
                left -= len(piece)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a short answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Told(BaseHTTPRequestHandler):
    """What was asked, as JSON."""

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Tell everything."""
        body = json.dumps(ASKED).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Proxy(BaseHTTPRequestHandler):
    """CONNECT to the hub, by its name alone."""

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_CONNECT(self) -> None:
        """Open a tunnel to the hub."""
        ASKED.append(f"CONNECT {self.path}")
        if self.path != f"{NAME}:443":
            self.send_error(403)
            return
        with socket.create_connection(("127.0.0.1", 8443)) as upstream:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=copy, args=(upstream, self.connection), daemon=True)
            back.start()
            copy(self.connection, upstream)
            back.join()


_DIGESTS: dict[Path, str] = {}


def digest_of(path: Path) -> str:
    """Return a file's SHA-256."""
    if path not in _DIGESTS:
        with path.open("rb") as content:
            _DIGESTS[path] = hashlib.file_digest(content, "sha256").hexdigest()
    return _DIGESTS[path]


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends."""
    try:
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # either side left


def main(certificate: str, key: str, model: str) -> None:
    """Serve until killed."""
    Hub.model = Path(model)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    hub = ThreadingHTTPServer(("", 8443), Hub)
    hub.socket = context.wrap_socket(hub.socket, server_side=True)
    for server in (hub, ThreadingHTTPServer(("", 3128), Proxy)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("", 8080), Told).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
