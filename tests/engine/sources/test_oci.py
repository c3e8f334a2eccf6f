"""Artifacts of a registry: layers that are files, layers that are tars, tokens, digests, tags that move."""

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile

import pytest

from slipway_engine.errors import ModelAccessDenied, ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.sources.download import Downloader, Patience
from slipway_engine.sources.fetch import Fetch, fetch
from slipway_engine.sources.inspect import inspect
from slipway_engine.sources.places import listing_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
RAW = "application/vnd.cncf.model.weight.v1.raw"
TITLE = "org.opencontainers.image.title"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}


def tensors():
    header = json.dumps({"a": {"dtype": "BF16", "shape": [32, 8], "data_offsets": [0, 512]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(512)


FILES = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": tensors(), "README.md": b"# card"}


def tar_of(files, folder="models/"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(f"{folder}{name}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        link = tarfile.TarInfo("models/generation_config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        up = tarfile.TarInfo("../../up.json")
        up.size = 2
        tar.addfile(up, io.BytesIO(b"{}"))
    return out.getvalue()


class Registry:
    """A repository `team/m` on the loopback server; `token` is what a request has to bring."""

    def __init__(self, web, endless):
        self.web, self.endless, self.token, self.user = web, endless, None, None
        self.host = web.url.removeprefix("http://")

    def source(self, reference=":1"):
        return f"oci://{self.host}/team/m{reference}"

    def push(self, tag, layers, **manifest):
        described = []
        for kind, body, annotations in layers:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.serve(f"blobs/{digest}", body)
            described.append(
                {"mediaType": kind, "digest": digest, "size": len(body), "annotations": annotations}
            )
        body = json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST, "layers": described, **manifest}
        ).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for reference in (tag, digest):
            self.serve(f"manifests/{reference}", body)
        return digest

    def serve(self, path, body):
        def answer(handler):
            if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
                realm = f'Bearer realm="{self.web.url}/token",service="reg",scope="repository:team/m:pull"'
                handler.answer(401, b"{}", WWW_Authenticate=realm)
            else:
                handler.serve_file(body)

        def hand_out(handler):
            assert "scope=repository%3Ateam%2Fm%3Apull" in handler.path
            if self.user and handler.headers.get("Authorization") != self.user:
                handler.answer(401, b"{}")
            else:
                handler.answer(200, json.dumps({"token": self.token, "expires_in": 300}).encode())

        self.web.script[f"/v2/team/m/{path}"] = self.endless(answer)
        for query in ("scope=repository%3Ateam%2Fm%3Apull&service=reg",):
            self.web.script[f"/token?{query}"] = self.endless(hand_out)


@pytest.fixture
def registry(web, endless):
    return Registry(web, endless)


def quick():
    return Downloader(Patience(attempts=2, first_pause=0.0, read=2), sleep=lambda _: None)


def as_files(files):
    return [(RAW, body, {TITLE: name}) for name, body in files.items()]


def names(directory):
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


def test_layers_that_are_files(registry, tmp_path):
    digest = registry.push("1", as_files(FILES), annotations={"org.opencontainers.image.licenses": "MIT"})
    found = inspect(registry.source(), Fetch(), quick())
    assert f"sha256:{found.commit}" == digest
    assert found.license == "MIT"
    assert found.facts.weights == {"BF16": 512}
    fetch(registry.source(), tmp_path, Fetch(), quick())
    assert names(tmp_path) == {"config.json", "model.safetensors"}
    assert (tmp_path / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("packed", [False, True])
def test_layers_that_are_tars_bring_wanted_regular_files_alone(registry, tmp_path, packed):
    body = tar_of({**FILES, "pytorch_model.bin": b"\x80\x04pickle"})
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if packed else "")
    registry.push("1", [(kind, gzip.compress(body) if packed else body, {})])
    found = inspect(registry.source(), Fetch(), quick())
    assert found.facts.weights == {"BF16": 512}
    assert found.size >= sum(len(FILES[name]) for name in ("config.json", "model.safetensors"))
    fetch(registry.source(), tmp_path / "to", Fetch(), quick())
    assert names(tmp_path / "to") == {"config.json", "model.safetensors", "up.json"}
    assert not (tmp_path / "up.json").exists(), "a name's folder is dropped"


def test_a_tag_that_moved_stays_what_it_was(registry, tmp_path):
    first = registry.push("1", as_files(FILES)).removeprefix("sha256:")
    registry.push("1", as_files({**FILES, "tokenizer.json": b"{}"}))
    fetch(registry.source(), tmp_path, Fetch(revision=first), quick())
    assert "tokenizer.json" not in names(tmp_path)


def test_a_manifest_that_is_another_is_refused(registry):
    digest = registry.push("1", as_files(FILES))
    registry.serve(f"manifests/{digest}", b"{}")
    with quick() as downloader, pytest.raises(ModelCorrupt, match="another manifest"):
        listing_of(registry.source(f"@{digest}"), Fetch(), downloader)


def test_a_blob_that_is_another_is_refused(registry, tmp_path):
    registry.push("1", as_files(FILES))
    digest = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    registry.serve(f"blobs/sha256:{digest}", os.urandom(len(FILES["model.safetensors"])))
    with pytest.raises(ModelCorrupt, match="SHA-256"):
        fetch(registry.source(), tmp_path, Fetch(), quick())


def test_a_token_is_asked_for_where_the_registry_says(registry, tmp_path):
    registry.push("1", as_files(FILES))
    registry.token, registry.user = "t0ken", "Basic dXNlcjpwYXNz"  # user:pass
    with pytest.raises(ModelAccessDenied):
        fetch(registry.source(), tmp_path / "a", Fetch(), quick())
    with pytest.raises(ModelAccessDenied):
        fetch(registry.source(), tmp_path / "b", Fetch(token="user:wrong"), quick())
    fetch(registry.source(), tmp_path / "c", Fetch(token="user:pass"), quick())
    assert "model.safetensors" in names(tmp_path / "c")


def test_an_index_leads_to_a_manifest(registry, tmp_path):
    digest = registry.push("x", as_files(FILES))
    index = {"manifests": [{"digest": digest, "platform": {"architecture": "any"}}]}
    registry.serve("manifests/1", json.dumps(index).encode())
    fetch(registry.source(), tmp_path, Fetch(), quick())
    assert "config.json" in names(tmp_path)


def test_what_is_not_there_or_cannot_be_read_is_named(registry):
    with quick() as downloader:
        with pytest.raises(ModelNotFound, match="has no none"):
            listing_of(registry.source(":none"), Fetch(), downloader)
        registry.push("1", [("application/vnd.oci.image.layer.v1.tar+zstd", b"x", {})])
        with pytest.raises(ModelUnsupported, match="zstd"):
            listing_of(registry.source(), Fetch(), downloader)
        registry.push("2", [])
        with pytest.raises(ModelUnsupported, match="no layers"):
            listing_of(registry.source(":2"), Fetch(), downloader)
