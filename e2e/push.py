"""Puts a model into an S3 store and an OCI registry beside it, then says so: runs in a pod of the tests.

    python push.py MODEL.gguf CA.crt

The keys are ROOT_ACCESS_KEY and ROOT_SECRET_KEY (of the store), OCI_USER and OCI_PASSWORD. The requests are
signed here, as the specification has it, and not by the code that is tested. Port 8080 answers when all is
there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import ssl
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

BUCKET, PREFIX, REPOSITORY, TAG = "models", "smol", "team/smol", "v1"
S3, OCI = ("localhost", 7070), ("localhost", 5000)
TYPE = "application/vnd.oci.image.manifest.v1+json"
GGUF = "application/vnd.cncf.model.weight.v1.raw"


class Refused(OSError):
    """A server said no."""


def send(
    place: tuple[str, int],
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    trust: ssl.SSLContext,
) -> http.client.HTTPResponse:
    """Send a request over TLS, and again while nobody answers; return the answer's head."""
    for _ in range(120):
        try:
            connection = http.client.HTTPSConnection(*place, context=trust, timeout=120)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
        except ConnectionRefusedError:
            time.sleep(0.5)
            continue
        text = answer.read()
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {text[:300]!r}")
        return answer
    raise Refused(f"nobody listens at {place}")


def signed(method: str, path: str, body: bytes, access: str, secret: str) -> dict[str, str]:
    """Return the headers that sign a request to the store: AWS Signature Version 4."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    told = {"host": f"{S3[0]}:{S3[1]}", "x-amz-content-sha256": digest, "x-amz-date": moment}
    names = ";".join(sorted(told))
    canonical = "\n".join(
        [method, path, "", *(f"{name}:{told[name]}" for name in sorted(told)), "", names, digest]
    )
    scope = f"{moment[:8]}/us-east-1/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**told, "Authorization": credential}


def to_store(model: bytes, trust: ssl.SSLContext) -> None:
    """Put the model into a bucket, with a pickle beside it that nobody may fetch."""
    keys = os.environ["ROOT_ACCESS_KEY"], os.environ["ROOT_SECRET_KEY"]
    files = {"model.gguf": model, "README.md": b"a model", "training.bin": b"\x80\x04."}
    for path, body in ((f"/{BUCKET}", b""), *((f"/{BUCKET}/{PREFIX}/{k}", v) for k, v in files.items())):
        send(S3, "PUT", path, body, signed("PUT", path, body, *keys), trust)


def to_registry(model: bytes, trust: ssl.SSLContext) -> None:
    """Push the model as an artifact of one layer that is a file."""
    credentials = f"{os.environ['OCI_USER']}:{os.environ['OCI_PASSWORD']}".encode()
    who = {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}

    def blob(content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        answer = send(OCI, "POST", f"/v2/{REPOSITORY}/blobs/uploads/", b"", who, trust)
        place = answer.headers["Location"].split(f":{OCI[1]}", 1)[-1]
        path = f"{place}{'&' if '?' in place else '?'}digest={digest}"
        send(OCI, "PUT", path, content, {**who, "Content-Type": "application/octet-stream"}, trust)
        return {"digest": digest, "size": len(content)}

    layer = {"mediaType": GGUF, **blob(model), "annotations": {"org.cncf.model.filepath": "model.gguf"}}
    config = {"mediaType": "application/vnd.oci.empty.v1+json", **blob(b"{}")}
    manifest = {"schemaVersion": 2, "mediaType": TYPE, "config": config, "layers": [layer]}
    manifest["annotations"] = {"org.opencontainers.image.licenses": "Apache-2.0"}
    body = json.dumps(manifest).encode()
    send(OCI, "PUT", f"/v2/{REPOSITORY}/manifests/{TAG}", body, {**who, "Content-Type": TYPE}, trust)


class Done(BaseHTTPRequestHandler):
    """Says that everything is there."""

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(204)
        self.end_headers()


def main(model: str, authority: str) -> None:
    """Push, then answer until killed."""
    trust = ssl.create_default_context(cafile=authority)
    content = Path(model).read_bytes()
    to_store(content, trust)
    to_registry(content, trust)
    HTTPServer(("", 8080), Done).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
