"""Buckets: signatures by Amazon's published examples, listings in pages, checksums, and what is refused."""

import base64
import hashlib
import os
import zlib
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest

from slipway_engine.errors import (
    DownloadFailed,
    InvalidArgument,
    ModelAccessDenied,
    ModelChanged,
    ModelCorrupt,
    ModelNotFound,
)
from slipway_engine.sources.aws import Keys, signed
from slipway_engine.sources.crc import CRC32C, CRC64NVME, Crc
from slipway_engine.sources.download import Downloader, Patience
from slipway_engine.sources.fetch import Fetch, fetch
from slipway_engine.sources.places import listing_of

# The account, time and bucket of the examples in Amazon's description of Signature Version 4.
EXAMPLE = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MOMENT = datetime(2013, 5, 24, tzinfo=UTC)
FILES = {
    "llama/config.json": b'{"model_type": "llama"}',
    "llama/tokenizer.json": b"{}",
    "llama/model.safetensors": os.urandom(150_000),
    "llama/pytorch_model.bin": b"\x80\x04pickle",
    "llama/deeper/other.json": b"{}",
}


@pytest.mark.parametrize(
    ("path", "headers", "signature"),
    [
        (
            "/test.txt",
            {"Range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        ("/?lifecycle", {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/?max-keys=2&prefix=J", {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_requests_are_signed_as_in_the_published_examples(path, headers, signature):
    url = f"https://examplebucket.s3.amazonaws.com{path}"
    assert signed("GET", url, headers, EXAMPLE, "us-east-1", MOMENT)["Authorization"].endswith(signature)


def test_cyclic_checks_are_those_of_the_catalogue_and_of_zlib():
    assert CRC32C.of(b"123456789") == 0xE3069283
    assert CRC64NVME.of(b"123456789") == 0xAE8B14860A799888
    crc32, data = Crc(32, 0xEDB88320), os.urandom(300_001)
    for length in (0, 1, 2, 65_535, 65_537, len(data)):
        assert crc32.of(data[:length]) == zlib.crc32(data[:length])
    assert crc32.of(data[7:], crc32.of(data[:7])) == zlib.crc32(data)


class Bucket:
    """An S3-compatible store on the loopback server: a bucket `models`, two objects a page."""

    def __init__(self, web, endless, files):
        self.web, self.files, self.headers = web, dict(files), {}
        for key in files:
            web.script[f"/models/{key}"] = endless(self.answer)
        self.web.script = Prefixed(web.script, "/models/?", endless(self.list))

    def etag(self, key):
        return f'"{hashlib.md5(self.files[key]).hexdigest()}"'

    def list(self, handler):
        if not handler.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=AKIA/"):
            handler.answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
            return
        asked = {name: value for name, (value,) in parse_qs(urlsplit(handler.path).query).items()}
        prefix, start = asked.get("prefix", ""), int(asked.get("continuation-token", 0))
        keys = sorted(k for k in self.files if k.startswith(prefix) and "/" not in k[len(prefix) :])
        page, more = keys[start : start + 2], start + 2 < len(keys)
        entries = "".join(
            f"<Contents><Key>{k}</Key><Size>{len(self.files[k])}</Size><ETag>{escape(self.etag(k))}</ETag>"
            "</Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if more else ""
        text = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}"
        name = "http://s3.amazonaws.com/doc/2006-03-01/"
        handler.answer(200, f'<ListBucketResult xmlns="{name}">{text}</ListBucketResult>'.encode())

    def answer(self, handler):
        key = handler.path.removeprefix("/models/")
        if handler.headers.get("If-Match") not in (None, self.etag(key)):
            handler.answer(412, b"")
            return
        body = self.files[key]
        handler.send_response(200)
        for name, value in {"ETag": self.etag(key), **self.headers.get(key, {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


class Prefixed(dict):
    """A script in which every path that begins so has the same misdeed."""

    def __init__(self, script, prefix, misdeed):
        super().__init__(script)
        self._prefix, self._misdeed = prefix, misdeed

    def get(self, path, default=None):
        return self._misdeed if path.startswith(self._prefix) else super().get(path, default)


@pytest.fixture
def bucket(web, endless, monkeypatch):
    monkeypatch.setattr(web.RequestHandlerClass, "do_HEAD", web.RequestHandlerClass.do_GET, raising=False)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", web.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return Bucket(web, endless, FILES)


def quick():
    return Downloader(Patience(attempts=2, first_pause=0.0, read=2), sleep=lambda _: None)


def names(directory):
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


def test_a_prefix_is_fetched_in_pages_and_without_pickles(bucket, tmp_path):
    assert fetch("s3://models/llama", tmp_path, Fetch(), quick()) == tmp_path
    assert names(tmp_path) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (tmp_path / "model.safetensors").read_bytes() == FILES["llama/model.safetensors"]
    assert sum("continuation-token" in path for path, _ in bucket.web.requests) == 1
    assert not any(path.endswith(".bin") for path, _ in bucket.web.requests)


def test_its_version_is_that_of_its_files_and_is_held_to(bucket, tmp_path):
    with quick() as downloader:
        first = listing_of("s3://models/llama", Fetch(), downloader).commit
        listing_of("s3://models/llama", Fetch(revision=first), downloader)
        bucket.files["llama/config.json"] = b'{"model_type": "other"}'
        assert listing_of("s3://models/llama", Fetch(), downloader).commit != first
        with pytest.raises(ModelChanged, match="restartToken"):
            listing_of("s3://models/llama", Fetch(revision=first), downloader)


def test_a_file_that_is_replaced_while_it_is_fetched_is_noticed(bucket, tmp_path):
    with quick() as downloader:
        listing = listing_of("s3://models/llama", Fetch(), downloader)
        bucket.files["llama/model.safetensors"] = b"another"
        file = next(f for f in listing.files if f.name == "model.safetensors")
        with pytest.raises(ModelChanged):
            downloader.fetch(file, tmp_path / "x", lambda done, total: None)


@pytest.mark.parametrize(
    ("headers", "digests"),
    [
        ({}, {"MD5"}),
        ({"x-amz-server-side-encryption": "aws:kms"}, set()),
        ({"x-amz-checksum-sha256": "AAAA-2", "x-amz-checksum-type": "COMPOSITE"}, {"MD5"}),
        (
            {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(b"{}").digest()).decode()},
            {"SHA-256"},
        ),
        (
            {
                "x-amz-checksum-type": "FULL_OBJECT",
                "x-amz-checksum-crc64nvme": base64.b64encode(CRC64NVME.of(b"{}").to_bytes(8, "big")).decode(),
            },
            {"CRC-64/NVME"},
        ),
    ],
)
def test_a_file_is_checked_by_what_the_store_keeps_of_all_of_it(bucket, tmp_path, headers, digests):
    bucket.headers["llama/tokenizer.json"] = headers
    with quick() as downloader:
        listing = listing_of("s3://models/llama", Fetch(), downloader)
        file = next(f for f in listing.files if f.name == "tokenizer.json")
        assert set(file.digests) == digests
        downloader.fetch(file, tmp_path / "t", lambda done, total: None)


def test_a_wrong_checksum_is_no_model(bucket, tmp_path):
    bucket.headers["llama/tokenizer.json"] = {"x-amz-checksum-crc32c": base64.b64encode(b"\0" * 4).decode()}
    with pytest.raises(ModelCorrupt, match="CRC-32C"):
        fetch("s3://models/llama", tmp_path, Fetch(), quick())


def test_what_cannot_be_read_has_its_own_reason(bucket, endless, tmp_path, monkeypatch):
    with pytest.raises(ModelNotFound, match="has no files"):
        fetch("s3://models/none", tmp_path, Fetch(), quick())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHER")
    with pytest.raises(ModelAccessDenied, match="AccessDenied"):
        fetch("s3://models/llama", tmp_path, Fetch(), quick())
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InvalidArgument, match="both"):
        fetch("s3://models/llama", tmp_path, Fetch(), quick())


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "XAdminUserNotFound"])
def test_keys_that_a_store_does_not_know_are_no_missing_bucket(web, bucket, endless, tmp_path, code):
    unknown = f"<Error><Code>{code}</Code><Message>no such key</Message></Error>".encode()
    web.script = Prefixed({}, "/models/?", endless(lambda handler: handler.answer(404, unknown)))
    with pytest.raises(ModelAccessDenied, match=code):
        fetch("s3://models/llama", tmp_path, Fetch(), quick())


def test_entities_in_an_answer_are_not_expanded(web, bucket, endless, tmp_path):
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult>&a;</ListBucketResult>'
    web.script = Prefixed({}, "/models/?", endless(lambda handler: handler.answer(200, bomb)))
    with pytest.raises(DownloadFailed, match="no list of files"):
        fetch("s3://models/llama", tmp_path, Fetch(), quick())


def test_a_signed_request_follows_nobody(web, bucket, endless, tmp_path):
    def away(handler):
        handler.answer(307, b"", Location=f"{web.url}/elsewhere")

    web.script["/models/llama/config.json"] = endless(away)
    with pytest.raises(DownloadFailed, match="307"):
        fetch("s3://models/llama", tmp_path, Fetch(), quick())
    assert not any(path == "/elsewhere" for path, _ in web.requests)


def test_an_identity_s_token_is_exchanged_for_keys(web, bucket, endless, tmp_path, monkeypatch):
    def hand_out(handler):
        form = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        assert form["WebIdentityToken"] == ["the-token"]
        assert form["RoleArn"] == ["arn:aws:iam::1:role/reader"]
        handler.answer(
            200,
            b"<AssumeRoleWithWebIdentityResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'>"
            b"<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIA</AccessKeyId>"
            b"<SecretAccessKey>s</SecretAccessKey><SessionToken>session</SessionToken>"
            b"<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
            b"</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        )

    monkeypatch.setattr(web.RequestHandlerClass, "do_POST", web.RequestHandlerClass.do_GET, raising=False)
    web.script["/"] = endless(hand_out)
    (tmp_path / "token").write_text("the-token")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", web.url)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    fetch("s3://models/llama", tmp_path / "m", Fetch(), quick())
    sessions = {h.get("x-amz-security-token") for path, h in web.requests if "models" in path}
    assert sessions == {"session"}


def test_keys_are_not_shown():
    assert "wJalr" not in repr(EXAMPLE)


@pytest.mark.parametrize("region", ["evil.example/", "a.b", "x#", "Ä", "-x"])
def test_a_region_is_no_other_host(region, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_REGION", region)
    with pytest.raises(InvalidArgument, match="is no region"):
        fetch("s3://models/llama", tmp_path, Fetch(), quick())
