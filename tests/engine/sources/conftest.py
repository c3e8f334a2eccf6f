"""Real HTTP servers on loopback that misbehave on request, and a hub as huggingface_hub knows it."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Misbehaving(BaseHTTPRequestHandler):
    """Serves `server.files`; `server.script` is a list of misdeeds, one a request, by path."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        misdeeds = self.server.script.get(self.path, [])
        misdeed = misdeeds.pop(0) if misdeeds else None
        if callable(misdeed):
            misdeed(self)
        elif isinstance(misdeed, int):
            self.answer(misdeed, b"no")
        elif self.path in self.server.files:
            self.serve_file(self.server.files[self.path], misdeed)
        else:
            self.answer(404, b"nothing here")

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve_file(self, body, misdeed=None):
        etag = f'"{hashlib.sha256(body).hexdigest()[:12]}"'
        start = 0
        asked = self.headers.get("Range")
        stop = len(body)
        partial = asked and self.headers.get("If-Range") in (None, etag) and misdeed != "ignore range"
        if partial:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or stop) + 1, stop)
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
        if misdeed != "no etag":
            self.send_header("ETag", etag)
        rest = body[start:stop]
        if misdeed == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
            return
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if misdeed == "cut":
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.connection.shutdown(2)
            self.close_connection = True
        elif misdeed == "stall":
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.server.leaving.wait(20)
        elif misdeed == "trickle":
            for byte in rest:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.leaving.wait(0.05):
                    return
        else:
            self.wfile.write(rest)


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that left is no news."""


@pytest.fixture
def web():
    server = Quiet(("127.0.0.1", 0), Misbehaving)
    server.files, server.script, server.requests = {}, {}, []
    server.leaving = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.leaving.set()
    server.shutdown()
    thread.join()
    server.server_close()


COMMIT = "c" * 40


@pytest.fixture
def hub(web, monkeypatch):
    """A hub with the repositories that `publish` puts there; private ones want the token `hf_good`."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def pointer(body):
        return {"lfs": {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 130}}

    def publish(name, files, *, private=False, gated=False, revision="main", tags=()):
        siblings = [
            {
                "rfilename": file,
                "size": len(body),
                "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(),
                **(pointer(body) if file.endswith((".safetensors", ".gguf", ".bin")) else {}),
            }
            for file, body in files.items()
        ]  # fmt: skip
        info = {
            "id": name,
            "modelId": name,
            "sha": COMMIT,
            "private": private,
            "tags": list(tags),
            "siblings": siblings,
        }

        def described(handler):
            if private and handler.headers.get("Authorization") != "Bearer hf_good":
                handler.answer(401, b"{}", X_Error_Code="RepoNotFound")
            elif gated and handler.headers.get("Authorization") != "Bearer hf_good":
                handler.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            else:
                handler.answer(200, json.dumps(info).encode(), Content_Type="application/json")

        web.script[f"/api/models/{name}/revision/{revision}?blobs=true"] = Endless(described)
        for file, body in files.items():
            web.files[f"/{name}/resolve/{COMMIT}/{file}"] = body
        return web

    def missing_revision(handler):
        handler.answer(404, b"{}", X_Error_Code="RevisionNotFound")

    def missing_repository(handler):
        handler.answer(401, b"{}", X_Error_Code="RepoNotFound")

    web.publish, web.missing_revision, web.missing_repository = publish, missing_revision, missing_repository
    return web


class Endless(list):
    """The same misdeed at every request."""

    def __init__(self, misdeed):
        super().__init__([misdeed])

    def pop(self, at):
        return self[at]


@pytest.fixture
def endless():
    return Endless


@pytest.fixture
def no_sleep():
    """Stands in for waiting between attempts; notes what would have been waited for."""
    waits = []
    return waits.append, waits
