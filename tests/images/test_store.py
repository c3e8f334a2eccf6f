"""The store of built images: whole or not there, shared layers once, the newest kept."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from e2e.cluster import oci
from e2e.cluster.archives import Layout
from e2e.cluster.errors import ClusterError
from e2e.cluster.images_store import KEEP, Store


def put(store: Store, content: bytes) -> dict[str, Any]:
    folder = store.layout / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def add(store: Store, name: str, tag: str, layers: list[bytes]) -> None:
    """Writes an image as buildah does."""
    manifest = oci.dump(
        {
            "schemaVersion": 2,
            "config": {"mediaType": oci.CONFIG, **put(store, f"{name} {tag}".encode())},
            "layers": [{"mediaType": oci.LAYER, **put(store, layer)} for layer in layers],
        }
    )
    described = {
        "mediaType": oci.MANIFEST,
        **put(store, manifest),
        "annotations": {"org.opencontainers.image.ref.name": f"{name}-{tag}"},
    }
    index = store.layout / "index.json"
    before = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    index.write_bytes(oci.dump({"schemaVersion": 2, "manifests": [*before, described]}))


def show(store: Store, name: str, tag: str, ref: str = "localhost/x:y") -> Path:
    described = store.find(name, tag)
    assert described
    return store.show(name, tag, ref, described)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_finds_only_what_is_whole(store: Store) -> None:
    assert store.find("engine", "1") is None
    add(store, "engine", "1", [b"base", b"code"])
    described = store.find("engine", "1")
    assert described
    assert store.find("engine", "2") is None
    layer = store.blob(f"sha256:{hashlib.sha256(b'code').hexdigest()}")
    layer.write_bytes(b"cod")  # a copy that was cut short
    assert store.find("engine", "1") is None
    layer.unlink()
    assert store.find("engine", "1") is None


def test_survives_a_broken_index(store: Store) -> None:
    add(store, "engine", "1", [b"base"])
    (store.layout / "index.json").write_text("{")
    assert store.find("engine", "1") is None


def test_shows_an_image_as_a_layout_of_its_own(store: Store) -> None:
    add(store, "engine", "1", [b"base", b"code"])
    add(store, "operator", "1", [b"base", b"other"])
    folder = show(store, "engine", "1", "registry.example/team/engine:1")
    layout = Layout(folder)
    assert layout.name == "registry.example/team/engine:1"
    assert len(layout.blobs()) == 4
    for blob in layout.blobs():
        with layout.open(blob.digest) as content:
            assert f"sha256:{hashlib.sha256(content.read()).hexdigest()}" == blob.digest


def test_shows_one_image_under_two_names(store: Store) -> None:
    add(store, "engine", "1", [b"base"])
    folders = [show(store, "engine", "1", ref) for ref in ("a.example/x:1", "b.example/x:1")]
    assert [Layout(folder).name for folder in folders] == ["a.example/x:1", "b.example/x:1"]


def test_prunes_the_oldest_and_keeps_what_is_shared(store: Store) -> None:
    total = KEEP + 2
    for number in range(total):
        add(store, "engine", str(number), [b"base", f"code {number}".encode()])
        os.utime(show(store, "engine", str(number)).parent, (number, number))
    add(store, "operator", "0", [b"base"])
    os.utime(show(store, "operator", "0").parent, (0, 0))
    assert store.prune() > 0
    assert [bool(store.find("engine", str(n))) for n in range(total)] == [
        n >= total - KEEP for n in range(total)
    ]
    assert store.find("operator", "0")
    assert store.prune() == 0


def test_refuses_a_path_that_buildah_would_misread(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"has a colon, .*; move SLIPWAY_CACHE"):
        Store(tmp_path / "a:b").destination("engine", "1")
