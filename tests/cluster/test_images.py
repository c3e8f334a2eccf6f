"""What is written is an OCI image by the specification, and what is read is checked."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from e2e.cluster import archives, oci
from e2e.cluster.content import Store, removable
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import Progress, Step

NAME = "localhost/slipway-cluster/pause:0123456789ab"


def image(folder: Path, content: bytes = b"\x7fELF program") -> oci.Image:
    program = folder / "program"
    program.write_bytes(content)
    return oci.Image(NAME, {"bin/pause": program}, ["/bin/pause"], "amd64")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    target = tmp_path / "image.tar"
    oci.write(image(tmp_path), target)
    return target


def unpack(archive: Path, folder: Path) -> None:
    """Python 3.11.2 of Debian 12 knows no extraction filter, and later ones warn without."""
    for name, content in members(archive).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as opened:
        return {entry.name: opened.extractfile(entry).read() for entry in opened if entry.isfile()}  # type: ignore[union-attr]


def blob(files: dict[str, bytes], described: dict[str, Any]) -> bytes:
    content = files[f"blobs/{described['digest'].replace(':', '/')}"]
    assert len(content) == described["size"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == described["digest"]
    return content


class TestWriter:
    def test_every_descriptor_leads_to_its_blob(self, archive: Path) -> None:
        files = members(archive)
        assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        (described,) = json.loads(files["index.json"])["manifests"]
        manifest = json.loads(blob(files, described))
        assert manifest["schemaVersion"] == 2
        config = json.loads(blob(files, manifest["config"]))
        (layer,) = manifest["layers"]
        unpacked = blob(files, layer)
        assert config["rootfs"]["diff_ids"] == [layer["digest"]], "an uncompressed layer is its own diff"
        assert config["os"] == "linux"
        assert config["config"]["User"] == "65532:65532"
        assert len(files) == 5, "no blob that nothing names"
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as inner:
            assert inner.getnames() == ["bin", "bin/pause"]
            assert inner.getmember("bin/pause").mode == 0o755

    def test_containerd_and_others_find_the_name(self, archive: Path) -> None:
        (described,) = json.loads(members(archive)["index.json"])["manifests"]
        assert set(described["annotations"]) == {
            "io.containerd.image.name",
            "org.opencontainers.image.ref.name",
        }
        assert set(described["annotations"].values()) == {NAME}

    def test_the_same_content_has_the_same_bytes(self, tmp_path: Path) -> None:
        digests = []
        for number in (1, 2):
            folder = tmp_path / str(number)
            folder.mkdir()
            digests.append(oci.write(image(folder), folder / "image.tar"))
        assert digests[0] == digests[1]
        assert (tmp_path / "1/image.tar").read_bytes() == (tmp_path / "2/image.tar").read_bytes()

    def test_other_content_has_another_digest(self, tmp_path: Path) -> None:
        one = oci.write(image(tmp_path, b"one"), tmp_path / "1.tar")
        assert one != oci.write(image(tmp_path, b"two"), tmp_path / "2.tar")

    def test_an_unknown_processor_is_refused(self) -> None:
        assert oci.architecture("aarch64") == "arm64"
        with pytest.raises(ClusterError, match="processor m68k"):
            oci.architecture("m68k")


class TestSources:
    def test_an_archive_tells_its_name_digest_and_blobs(self, archive: Path) -> None:
        with archives.open_archive(archive) as source:
            assert source.name == NAME
            for one in source.blobs():
                with source.open(one.digest) as content:
                    assert oci.digest_of(content.read()) == one.digest
            assert source.blobs()[0].digest == source.digest
            assert len(source.blobs()) == 3

    def test_a_layout_is_the_same_image(self, archive: Path, tmp_path: Path) -> None:
        unpack(archive, tmp_path / "layout")
        layout = archives.Layout(tmp_path / "layout")
        with archives.open_archive(archive) as source:
            assert (layout.name, layout.digest, layout.blobs()) == (
                source.name,
                source.digest,
                source.blobs(),
            )

    def test_a_stream_of_all_blobs_is_an_archive_again(self, archive: Path, tmp_path: Path) -> None:
        target = tmp_path / "again.tar"
        told: list[int] = []
        with archives.open_archive(archive) as source, target.open("wb") as stream:
            sent = archives.write_stream(source, source.blobs(), stream, told.append)
            digest = source.digest
        assert told[-1] == sent
        with archives.open_archive(target) as again:
            assert (again.name, again.digest) == (NAME, digest)
        assert {name: text for name, text in members(archive).items() if name.startswith("blobs/")} == {
            name: text for name, text in members(target).items() if name.startswith("blobs/")
        }

    def test_a_blob_that_is_missing_is_named(self, archive: Path, tmp_path: Path) -> None:
        unpack(archive, tmp_path / "layout")
        layout = archives.Layout(tmp_path / "layout")
        lost = layout.blobs()[2].digest
        (tmp_path / "layout" / "blobs" / lost.replace(":", "/")).unlink()
        with pytest.raises(ClusterError, match=f"lacks the blob {lost}"):
            layout.open(lost)

    @pytest.mark.parametrize(
        ("index", "words"),
        [
            (b"{}", "no OCI index"),
            (b"[]", "no OCI index"),
            (b"not JSON", "no OCI index"),
            (b'{"manifests": []}', "holds 0 images"),
            (b'{"manifests": [{"digest": "sha256:1", "size": 1}]}', "has no name"),
            (b'{"manifests": [{"digest": "sha256:1"}, {"digest": "sha256:2"}]}', "holds 2 images"),
        ],
    )
    def test_a_wrong_index_is_refused(self, index: bytes, words: str, tmp_path: Path) -> None:
        (tmp_path / "index.json").write_bytes(index)
        with pytest.raises(ClusterError, match=words):
            archives.Layout(tmp_path)

    def test_what_is_no_archive_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"no tar" * 1000)
        with pytest.raises(ClusterError, match="no uncompressed OCI archive"), archives.open_archive(file):
            pass

    def test_a_folder_that_is_no_layout_is_refused(self, tmp_path: Path) -> None:
        with (
            pytest.raises(ClusterError, match=r"without index\.json"),
            archives.source(str(tmp_path), tmp_path / "scratch"),
        ):
            pass

    @pytest.mark.parametrize(
        ("short", "full"),
        [
            ("busybox", "docker.io/library/busybox:latest"),
            ("team/app:1", "docker.io/team/app:1"),
            ("localhost/slipway/engine:1", "localhost/slipway/engine:1"),
            ("registry:5000/app", "registry:5000/app:latest"),
            ("ghcr.io/a/b@sha256:12", "ghcr.io/a/b@sha256:12"),
        ],
    )
    def test_names_are_spelled_as_kubernetes_does(self, short: str, full: str) -> None:
        assert archives.full_name(short) == full


CLIENT = """#!/bin/sh
# Stands where containerd's client stands: knows one image, keeps what it is sent.
case "$2" in
list) printf 'REF TYPE DIGEST SIZE PLATFORMS LABELS\\n%s application/x %s 1 linux -\\n' "$KNOWN" "$DIGEST" ;;
import) cat >"$SENT"; exit "${STATUS:-0}" ;;
esac
"""


class TestBringing:
    """The bytes that go to containerd, received by a program in its place."""

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        program = tmp_path / "ctr"
        program.write_text(CLIENT)
        program.chmod(0o755)
        for name, value in {"KNOWN": "x", "DIGEST": "sha256:0", "SENT": str(tmp_path / "sent")}.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "root/io.containerd.content.v1.content/blobs/sha256").mkdir(parents=True)
        return Store((str(program),), tmp_path / "root")

    def bring(self, store: Store, archive: Path) -> bool:
        with archives.open_archive(archive) as source:
            return store.bring(source, Step("load"))

    def test_everything_goes_to_an_empty_store(self, store: Store, archive: Path, tmp_path: Path) -> None:
        assert self.bring(store, archive)
        assert len(members(tmp_path / "sent")) == 5

    def test_blobs_that_are_there_are_not_sent(self, store: Store, archive: Path, tmp_path: Path) -> None:
        with archives.open_archive(archive) as source:
            layer = max(source.blobs(), key=lambda one: one.size)
        folder = tmp_path / "root/io.containerd.content.v1.content/blobs/sha256"
        (folder / layer.digest.removeprefix("sha256:")).touch()
        assert self.bring(store, archive)
        sent = members(tmp_path / "sent")
        assert len(sent) == 4
        assert f"blobs/{layer.digest.replace(':', '/')}" not in sent

    def test_the_same_image_is_not_sent_at_all(
        self, store: Store, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with archives.open_archive(archive) as source:
            monkeypatch.setenv("KNOWN", source.name)
            monkeypatch.setenv("DIGEST", source.digest)
        assert not self.bring(store, archive)
        assert not (tmp_path / "sent").exists()

    def test_an_older_image_of_that_name_is_replaced(
        self, store: Store, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KNOWN", NAME)
        assert self.bring(store, archive)
        assert (tmp_path / "sent").exists()

    def test_a_refusal_is_told(self, store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STATUS", "1")
        with pytest.raises(ClusterError, match=f"refused the image {NAME}"):
            self.bring(store, archive)


HAVE = {"a:1": "sha256:x", "a:2": "sha256:y", "b:1": "sha256:x"}
HAVE |= {"sha256:idx": "sha256:x", "sha256:idy": "sha256:y"}


class TestRemoving:
    @pytest.mark.parametrize(
        ("names", "gone"),
        [
            ({"a:2"}, ["a:2", "sha256:idy"]),
            ({"a:1"}, ["a:1"]),
            ({"a:1", "b:1"}, ["a:1", "b:1", "sha256:idx"]),
            ({"c:1"}, []),
        ],
    )
    def test_an_id_goes_with_the_last_name(self, names: set[str], gone: list[str]) -> None:
        assert removable(names, HAVE) == gone


def test_progress_without_a_terminal_is_plain_text() -> None:
    stream = io.StringIO()
    with Progress(stream).step("Load an image") as step:
        step.say("3 of 4 MiB")
    assert stream.getvalue().startswith("  ok Load an image: 3 of 4 MiB 0.")
    assert "\033" not in stream.getvalue()


def test_a_step_that_fails_says_so() -> None:
    stream = io.StringIO()
    with pytest.raises(ClusterError), Progress(stream).step("Load an image"):
        raise ClusterError("no")
    assert stream.getvalue().startswith("  no Load an image")
