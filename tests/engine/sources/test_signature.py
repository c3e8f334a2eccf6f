"""Signatures that the OpenSSF's own tool made (see signed/README.md), and what is none."""

import json
import shutil
from pathlib import Path

import pytest

from slipway_engine.errors import InvalidArgument, ModelUnsigned, SignatureInvalid
from slipway_engine.sources.download import Downloader, Patience
from slipway_engine.sources.fetch import Fetch, fetch, publish
from slipway_engine.sources.signature import split_keys, verify

SIGNED = Path(__file__).parent / "signed"
KEY, OTHER = (SIGNED / "key.pub").read_text(), (SIGNED / "other.pub").read_text()
NAMES = ("config.json", "tokenizer.json", "model.safetensors", "model.sig")


@pytest.fixture
def model(tmp_path):
    """What a fetch takes of the signed model: all but the text that no engine reads."""
    to = tmp_path / "model"
    to.mkdir()
    for name in NAMES:
        shutil.copy(SIGNED / "model" / name, to / name)
    return to


def test_what_the_tool_signed_holds_with_its_key_among_others(model):
    verify(model, NAMES, [KEY])
    verify(model, NAMES, split_keys(OTHER + KEY))


def test_another_s_key_is_not_enough(model):
    with pytest.raises(SignatureInvalid, match="none of the 1 keys"):
        verify(model, NAMES, [OTHER])


def test_no_signature(model):
    with pytest.raises(ModelUnsigned, match="requires one"):
        verify(model, NAMES[:-1], [KEY])


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_file_that_was_changed(model, name):
    (model / name).write_bytes((model / name).read_bytes() + b" ")
    with pytest.raises(SignatureInvalid, match=f"{name} is not the file"):
        verify(model, NAMES, [KEY])


def test_a_file_too_many_and_one_too_few(model):
    (model / "generation_config.json").write_text("{}")
    with pytest.raises(SignatureInvalid, match=r"generation_config\.json is there and not signed"):
        verify(model, [*NAMES, "generation_config.json"], [KEY])
    with pytest.raises(SignatureInvalid, match=r"tokenizer\.json is signed and not there"):
        verify(model, [name for name in NAMES if name != "tokenizer.json"], [KEY])


def edited(bundle, **envelope):
    return json.dumps({**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], **envelope}})


def test_a_bundle_that_was_tampered_with(model):
    path = model / "model.sig"
    bundle = json.loads(path.read_text())
    payload = bundle["dsseEnvelope"]["payload"]
    for text in (
        edited(bundle, payload=payload[:-8] + "AAAAAAA="),
        edited(bundle, payloadType="application/json"),
        edited(bundle, signatures=[]),
        edited(bundle, signatures=[{"sig": "AAAA"}]),
        edited(bundle, signatures="x"),
        "[]",
        "{}",
        "no JSON",
        "[" * 100_000,
    ):
        path.write_text(text)
        with pytest.raises(SignatureInvalid):
            verify(model, NAMES, [KEY])


def test_a_key_that_is_none_is_the_class_s_mistake(model):
    with pytest.raises(InvalidArgument, match="publicKeys"):
        verify(model, NAMES, ["-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"])


def quick():
    return Downloader(Patience(attempts=2, first_pause=0.01, read=2))


def test_nothing_is_published_that_was_not_verified(hub, tmp_path):
    files = {path.name: path.read_bytes() for path in (SIGNED / "model").iterdir()}
    hub.publish("org/signed", files)
    to = tmp_path / "there" / "model"
    with pytest.raises(SignatureInvalid):
        publish("hf://org/signed", to, Fetch(signers=(OTHER,)), quick())
    assert not to.exists()
    publish("hf://org/signed", to, Fetch(signers=(KEY,)), quick())
    assert to.is_dir()
    hub.publish("org/bare", {name: body for name, body in files.items() if name != "model.sig"})
    with pytest.raises(ModelUnsigned):
        fetch("hf://org/bare", tmp_path / "bare", Fetch(signers=(KEY,)), quick())


def test_one_file_has_its_signature_beside_it(web, tmp_path):
    web.files["/m.gguf"] = b"GGUF weights"
    with pytest.raises(ModelUnsigned, match=r"m\.gguf\.sig does not exist"):
        fetch(f"{web.url}/m.gguf", tmp_path, Fetch(signers=(KEY,)), quick())
    web.files["/m.gguf.sig"] = (SIGNED / "model" / "model.sig").read_bytes()
    with pytest.raises(SignatureInvalid):
        fetch(f"{web.url}/m.gguf", tmp_path, Fetch(signers=(KEY,)), quick())
