"""Sources to files: a hub through the real huggingface_hub client, single files, and what is already here."""

import json
import os

import pytest

from slipway_engine.errors import (
    DownloadFailed,
    EngineError,
    InvalidArgument,
    ModelAccessDenied,
    ModelNotFound,
    ModelUnsupported,
)
from slipway_engine.sources import hub as hub_module
from slipway_engine.sources.download import Downloader, Patience
from slipway_engine.sources.fetch import Fetch, cache_directory, fetch, local_path, locate

WEIGHTS = os.urandom(200_000)
REPOSITORY = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"Apache",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[:100],
    "model.safetensors.index.json": b"{}",
    "consolidated.safetensors": WEIGHTS,
    "pytorch_model.bin": b"\x80\x04pickle",
    "modeling_custom.py": b"import os",
    "onnx/model.onnx": b"onnx",
    "original/params.json": b"{}",
    "README.md": b"# hello",
}
WANTED = {
    "config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "LICENSE",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
}


def visible(directory):
    return {path.name for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")}


def quick():
    return Downloader(Patience(attempts=2, first_pause=0.01, read=2))


def test_a_repository_is_fetched_without_anything_that_runs_code(hub, tmp_path):
    hub.publish("org/name", REPOSITORY)
    assert fetch("hf://org/name", tmp_path, Fetch()) == tmp_path
    assert visible(tmp_path) == WANTED
    assert (tmp_path / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS


def test_a_second_fetch_asks_nobody(hub, tmp_path):
    hub.publish("org/name", REPOSITORY)
    fetch("hf://org/name", tmp_path, Fetch())
    hub.requests.clear()
    assert fetch("hf://org/name", tmp_path, Fetch()) == tmp_path
    assert hub.requests == []
    (tmp_path / "config.json").unlink()
    fetch("hf://org/name", tmp_path, Fetch())
    assert (tmp_path / "config.json").exists()
    assert not any("00001" in path for path, _ in hub.requests), "what was whole is not fetched again"


def test_the_revision_is_resolved_once_to_a_commit(hub, tmp_path):
    hub.publish("org/name", REPOSITORY, revision="v2")
    fetch("hf://org/name", tmp_path, Fetch(revision="v2"))
    assert json.loads((tmp_path / ".slipway-model.json").read_text())["commit"] == "c" * 40
    assert all("/resolve/" + "c" * 40 in path for path, _ in hub.requests if "resolve" in path)


def test_a_private_repository_wants_the_token(hub, tmp_path):
    hub.publish("org/secret", REPOSITORY, private=True)
    with pytest.raises(ModelNotFound, match="private"):
        fetch("hf://org/secret", tmp_path, Fetch())
    fetch("hf://org/secret", tmp_path, Fetch(token="hf_good"))
    assert visible(tmp_path) == WANTED


def test_a_gated_repository_says_what_to_do(hub, tmp_path):
    hub.publish("org/gated", REPOSITORY, gated=True)
    with pytest.raises(ModelAccessDenied, match="accept its terms"):
        fetch("hf://org/gated", tmp_path, Fetch(token="hf_bad"))


def test_a_repository_or_revision_that_is_not_there(hub, tmp_path, endless):
    path = "/api/models/org/none/revision/main?blobs=true"
    hub.script[path] = endless(hub.missing_repository)
    with pytest.raises(ModelNotFound, match="check the name"):
        fetch("hf://org/none", tmp_path, Fetch())
    hub.script["/api/models/org/name/revision/v9?blobs=true"] = endless(hub.missing_revision)
    with pytest.raises(ModelNotFound, match="'v9'"):
        fetch("hf://org/name", tmp_path, Fetch(revision="v9"))


def test_a_hub_that_fails_is_asked_again_and_then_named(hub, endless):
    waits = []
    hub.script["/api/models/org/name/revision/main?blobs=true"] = endless(500)
    with pytest.raises(DownloadFailed, match="HTTP 500"):
        hub_module.list_files(hub_module.Repository("org/name"), None, sleep=waits.append)
    assert waits == [1, 2, 4, 8]


def test_a_hub_that_is_not_there(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="HF_ENDPOINT"):
        hub_module.list_files(hub_module.Repository("org/name"), None, sleep=lambda seconds: None)


def test_one_gguf_file_is_taken_and_of_several_one_must_be_named(hub, tmp_path):
    hub.publish("org/one", {"m.gguf": b"GGUF" + WEIGHTS, "README.md": b""})
    assert fetch("hf://org/one", tmp_path / "a", Fetch()) == tmp_path / "a" / "m.gguf"
    hub.publish("org/many", {"q4.gguf": b"GGUF4", "q8.gguf": b"GGUF8"})
    with pytest.raises(InvalidArgument, match=r"hf://org/many/q4\.gguf"):
        fetch("hf://org/many", tmp_path / "b", Fetch())
    assert fetch("hf://org/many/q8.gguf", tmp_path / "c", Fetch()).read_bytes() == b"GGUF8"
    with pytest.raises(ModelNotFound, match=r"q4\.gguf, q8\.gguf"):
        fetch("hf://org/many/q9.gguf", tmp_path / "d", Fetch())


def test_pickled_weights_are_never_fetched(hub, tmp_path):
    hub.publish("org/old", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    with pytest.raises(ModelUnsupported, match="convert them to safetensors"):
        fetch("hf://org/old", tmp_path, Fetch())
    assert not any("resolve" in path for path, _ in hub.requests)


def test_a_hub_that_names_files_outside_is_not_obeyed(hub, tmp_path):
    hub.publish(
        "org/evil",
        {"../../x.safetensors": WEIGHTS, "/etc/y.json": b"{}", "m.safetensors": b"w", "config.json": b"{}"},
    )
    fetch("hf://org/evil", tmp_path / "to", Fetch())
    assert visible(tmp_path) == {"m.safetensors", "config.json"}


def test_a_file_over_https_needs_its_magic(web, tmp_path):
    web.files["/dir/m.gguf"] = b"GGUF" + WEIGHTS
    assert fetch(f"{web.url}/dir/m.gguf", tmp_path, Fetch()) == tmp_path / "m.gguf"
    web.files["/dir/login.gguf"] = b"<html>please log in"
    with pytest.raises(ModelUnsupported, match="no GGUF file"):
        fetch(f"{web.url}/dir/login.gguf", tmp_path / "b", Fetch())
    assert visible(tmp_path / "b") == set()
    with pytest.raises(ModelUnsupported, match=r"\.gguf"):
        fetch(f"{web.url}/dir/m.tar", tmp_path, Fetch())


def test_the_token_goes_to_an_https_source_only_where_that_was_said(web, tmp_path):
    web.files["/m.gguf"] = b"GGUF"
    fetch(f"{web.url}/m.gguf", tmp_path / "a", Fetch(token="secret"))
    fetch(f"{web.url}/m.gguf", tmp_path / "b", Fetch(token="secret", token_for_https=True))
    without, with_token = (headers for _, headers in web.requests)
    assert "Authorization" not in without
    assert with_token["Authorization"] == "Bearer secret"


def test_plain_http_needs_a_flag_unless_it_is_this_machine(tmp_path):
    with pytest.raises(InvalidArgument, match="--allow-http"):
        fetch("http://models.invalid/m.gguf", tmp_path, Fetch())
    with quick() as downloader, pytest.raises(InvalidArgument):
        fetch("http://10.1.2.3/m.gguf", tmp_path, Fetch(), downloader)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("hf://only-one-part", InvalidArgument),
        ("hf://a/b/../../c.gguf", InvalidArgument),
        ("ftp://host/x", InvalidArgument),
        ("s3://bucket/../x", InvalidArgument),
        ("gs://bucket/../x", InvalidArgument),
        ("oci://host/no-tag", InvalidArgument),
        ("pvc://claim/x", InvalidArgument),
        ("file://host/x", InvalidArgument),
        ("file:///nowhere/at/all", ModelNotFound),
        ("/nowhere/at/all", ModelNotFound),
    ],
)
def test_sources_that_name_nothing(source, kind, tmp_path):
    with pytest.raises(kind):
        fetch(source, tmp_path, Fetch())


def test_a_directory_that_cannot_be_written_is_named(hub, tmp_path):
    hub.publish("org/name", REPOSITORY)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidArgument, match="choose another directory"):
        fetch("hf://org/name", tmp_path / "file" / "below", Fetch())


def test_a_revision_of_a_file_is_no_such_thing(tmp_path):
    with pytest.raises(InvalidArgument, match="--revision"):
        fetch("/some/file.gguf", tmp_path, Fetch(revision="v1"))


def test_local_paths(tmp_path):
    (tmp_path / "a b.gguf").write_bytes(b"GGUF")
    assert local_path(f"file://{tmp_path}/a%20b.gguf") == tmp_path / "a b.gguf"
    assert locate(tmp_path) == tmp_path / "a b.gguf"
    (tmp_path / "c.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidArgument, match="2 GGUF files"):
        locate(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert locate(tmp_path) == tmp_path
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="holds no model"):
        locate(tmp_path / "empty")


def test_the_cache_tells_sources_and_revisions_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
    paths = {
        cache_directory(source, revision)
        for source in ("hf://a/b", "hf://a-b/c", "https://h/b.gguf")
        for revision in (None, "v1")
    }
    assert len(paths) == 6
    assert all(path.is_relative_to(tmp_path / "models") for path in paths)


def test_every_refusal_is_one_of_ours():
    for kind in (ModelNotFound, ModelAccessDenied, DownloadFailed, ModelUnsupported, InvalidArgument):
        assert issubclass(kind, EngineError)
        assert kind.reason == kind.__name__
