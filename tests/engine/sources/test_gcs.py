"""Google Cloud Storage: pages, generations, both checksums, tokens by a key and by the metadata server."""

import base64
import hashlib
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from slipway_engine.errors import InvalidArgument, ModelAccessDenied, ModelCorrupt, ModelNotFound
from slipway_engine.sources.crc import CRC32C
from slipway_engine.sources.download import Downloader, Patience
from slipway_engine.sources.fetch import Fetch, fetch

FILES = {
    "llama/config.json": b'{"model_type": "llama"}',
    "llama/model.safetensors": b"weights" * 1000,
    "llama/pytorch_model.bin": b"\x80\x04pickle",
}


class Store(dict):
    """The bucket `models`; `token` is what a request has to bring. Also hands out tokens."""

    def __init__(self, files):
        super().__init__()
        self.files, self.token, self.composed, self.wrong = files, None, False, b""

    def get(self, path, default=None):
        parts = urlsplit(path)
        if parts.path == "/storage/v1/b/models/o":
            return Endless(lambda handler: self.open(handler, lambda: self.list(handler, parts)))
        if parts.path.startswith("/storage/v1/b/models/o/"):
            return Endless(lambda handler: self.open(handler, lambda: self.bring(handler, parts)))
        return super().get(path, default)

    def open(self, handler, then):
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            handler.answer(401, b"{}")
        else:
            then()

    def list(self, handler, parts):
        asked = {name: value for name, (value,) in parse_qs(parts.query).items()}
        names = sorted(name for name in self.files if name.startswith(asked.get("prefix", "")))
        at = int(asked.get("pageToken", 0))
        items = []
        for name in names[at : at + 1]:
            body = self.files[name] + self.wrong
            item = {"name": name, "size": str(len(self.files[name])), "generation": "7"}
            item["crc32c"] = base64.b64encode(CRC32C.of(body).to_bytes(4, "big")).decode()
            if not self.composed:
                item["md5Hash"] = base64.b64encode(hashlib.md5(body).digest()).decode()
            items.append(item)
        more = {"nextPageToken": str(at + 1)} if at + 1 < len(names) else {}
        handler.answer(200, json.dumps({"items": items, **more}).encode())

    def bring(self, handler, parts):
        assert parse_qs(parts.query) == {"alt": ["media"], "generation": ["7"]}
        handler.serve_file(self.files[parts.path.rpartition("/")[2].replace("%2F", "/")])


class Endless(list):
    def __init__(self, misdeed):
        super().__init__([misdeed])

    def pop(self, at):
        return self[at]


@pytest.fixture
def store(web, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.url)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(web.RequestHandlerClass, "do_POST", web.RequestHandlerClass.do_GET, raising=False)
    web.script = Store(dict(FILES))
    return web.script


def quick():
    return Downloader(Patience(attempts=2, first_pause=0.0, read=2), sleep=lambda _: None)


def names(directory):
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("composed", [False, True])
def test_a_prefix_is_fetched_by_generations_and_checked(store, tmp_path, composed):
    store.composed = composed
    fetch("gs://models/llama", tmp_path / "a", Fetch(), quick())
    assert names(tmp_path / "a") == {"config.json", "model.safetensors"}
    store.wrong = b"!"
    with pytest.raises(ModelCorrupt, match="CRC-32C" if composed else "MD5"):
        fetch("gs://models/llama", tmp_path / "b", Fetch(), quick())


def test_what_is_not_there_or_not_open_is_told_apart(store, tmp_path):
    with pytest.raises(ModelNotFound, match="has no files"):
        fetch("gs://models/none", tmp_path, Fetch(), quick())
    store.token = "t0ken"
    with pytest.raises(ModelAccessDenied, match="workload identity"):
        fetch("gs://models/llama", tmp_path, Fetch(), quick())


def test_the_metadata_server_is_asked_only_where_an_identity_is_meant(web, store, tmp_path, monkeypatch):
    store.token = "t0ken"
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    told = json.dumps({"access_token": "t0ken", "expires_in": 3599}).encode()
    store[path] = Endless(lambda handler: handler.answer(200, told))
    monkeypatch.setenv("GCE_METADATA_HOST", web.url.removeprefix("http://"))
    with pytest.raises(ModelAccessDenied):
        fetch("gs://models/llama", tmp_path / "a", Fetch(), quick())
    assert not any(each == path for each, _ in web.requests)
    monkeypatch.setenv("SLIPWAY_WORKLOAD_IDENTITY", "true")
    fetch("gs://models/llama", tmp_path / "b", Fetch(), quick())
    asked = [headers for each, headers in web.requests if each == path]
    assert [headers["Metadata-Flavor"] for headers in asked] == ["Google"]


def test_a_key_file_signs_for_its_token(web, store, tmp_path, monkeypatch):
    key = generate_private_key(65537, 2048)
    store.token = "t0ken"

    def hand_out(handler):
        form = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        text, _, signature = form["assertion"][0].rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        key.public_key().verify(raw, text.encode(), PKCS1v15(), SHA256())
        claims = json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))
        assert (claims["iss"], claims["aud"]) == ("reader@project", f"{web.url}/token")
        handler.answer(200, json.dumps({"access_token": "t0ken", "expires_in": 3599}).encode())

    store["/token"] = Endless(hand_out)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    known = {"client_email": "reader@project", "token_uri": f"{web.url}/token", "private_key": pem}
    path = tmp_path / "key.json"
    path.write_text(json.dumps(known))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    fetch("gs://models/llama", tmp_path / "to", Fetch(), quick())
    path.write_text("{}")
    with pytest.raises(InvalidArgument, match="key file"):
        fetch("gs://models/llama", tmp_path / "other", Fetch(), quick())
