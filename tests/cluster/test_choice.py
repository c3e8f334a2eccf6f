"""The provider is the one somebody named, else kind where it can run, else this machine; and it says why."""

from pathlib import Path

import pytest
from e2e.cluster import choice, cli, versions
from e2e.cluster.apt import install_command
from e2e.cluster.choice import Choice
from e2e.cluster.cluster import current, make
from e2e.cluster.errors import ClusterError
from e2e.cluster.kind import configuration
from e2e.cluster.packages import missing
from e2e.cluster.paths import Paths
from e2e.cluster.progress import Progress

WANTED = versions.load()


def never(*_: str) -> bool:
    raise AssertionError("Docker was asked without need")


def choose(environment: dict[str, str], docker: bool, image: bool, privileged: bool = True) -> Choice:
    return choice.choose(WANTED, environment, lambda: docker, lambda _: image, lambda _: privileged)


class TestChoice:
    @pytest.mark.parametrize(
        ("docker", "image", "privileged", "provider", "why"),
        [
            (True, True, True, "kind", "has kind's node image"),
            (True, True, False, "local", "may not run kind's privileged node"),
            (True, False, True, "local", "cannot be had"),
            (False, True, True, "local", "No Docker engine answers"),
        ],
    )
    def test_by_what_the_machine_can_do(
        self, docker: bool, image: bool, privileged: bool, provider: str, why: str
    ) -> None:
        chosen = choose({}, docker, image, privileged)
        assert chosen.provider == provider
        assert why in chosen.why

    def test_a_context_comes_before_docker(self) -> None:
        chosen = choice.choose(WANTED, {"SLIPWAY_E2E_CONTEXT": "prod"}, never, never, never)
        assert chosen == Choice("existing", "SLIPWAY_E2E_CONTEXT names prod.")

    def test_a_named_provider_comes_first(self) -> None:
        named = {"SLIPWAY_E2E_PROVIDER": "local", "SLIPWAY_E2E_CONTEXT": "prod"}
        assert choice.choose(WANTED, named, never, never, never).provider == "local"

    def test_an_unknown_provider_is_refused(self) -> None:
        with pytest.raises(ClusterError, match="set it to one of kind, existing, local"):
            choose({"SLIPWAY_E2E_PROVIDER": "minikube"}, True, True)

    def test_existing_needs_a_context(self) -> None:
        with pytest.raises(ClusterError, match="SLIPWAY_E2E_CONTEXT"):
            choose({"SLIPWAY_E2E_PROVIDER": "existing"}, True, True)


class TestMemory:
    def test_what_up_chose_holds_until_down(self, tmp_path: Path) -> None:
        file = tmp_path / "cluster" / "provider.json"
        chosen = Choice("local", "No Docker engine answers.")
        choice.remember(chosen, file)
        assert choice.remembered(file, {}) == chosen
        choice.forget(file)
        assert choice.remembered(file, {}) is None

    def test_the_environment_overrules_it(self, tmp_path: Path) -> None:
        file = tmp_path / "provider.json"
        choice.remember(Choice("local", ""), file)
        assert choice.remembered(file, {"SLIPWAY_E2E_CONTEXT": "prod"}) is None

    def test_a_cluster_of_the_users_own_does_not_replace_it(self, tmp_path: Path) -> None:
        file = tmp_path / "provider.json"
        choice.remember(Choice("local", "here"), file)
        choice.remember(Choice("existing", "there"), file)
        assert choice.remembered(file, {}) == Choice("local", "here")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"provider": "local"}', '{"provider": "x", "why": ""}'])
    def test_a_broken_note_is_none(self, text: str, tmp_path: Path) -> None:
        file = tmp_path / "provider.json"
        file.write_text(text)
        assert choice.remembered(file, {}) is None

    def test_a_node_whose_note_was_lost_is_still_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("SLIPWAY_E2E_PROVIDER", "SLIPWAY_E2E_CONTEXT"):
            monkeypatch.delenv(name, raising=False)
        paths = Paths(tmp_path)
        paths.node.mkdir(parents=True)
        assert current(paths, WANTED).provider == "local"


@pytest.mark.parametrize("provider", choice.NAMES)
def test_each_provider_can_be_made(provider: str, tmp_path: Path) -> None:
    made = make(Choice(provider, "because"), Paths(tmp_path), WANTED, Progress())
    assert made.name == provider


def test_kind_mounts_the_audit_log_where_the_api_server_writes_it(tmp_path: Path) -> None:
    text = configuration(tmp_path, WANTED.kind_node_image)
    assert text.count("/var/log/kubernetes/audit") == 4
    assert WANTED.kind_node_image in text


class TestPackages:
    def test_nothing_is_missing_on_a_full_machine(self) -> None:
        assert missing(lambda _: "/usr/bin/it", lambda: "/usr/lib/cni") == []

    def test_each_package_is_named_once(self) -> None:
        found = missing(lambda _: None, lambda: None)
        assert found == sorted(set(found))
        assert "containerd" in found
        assert "containernetworking-plugins" in found

    def test_one_missing_program_brings_its_package(self) -> None:
        assert missing(lambda name: name != "conntrack", lambda: True) == ["conntrack"]

    def test_installing_asks_no_question(self) -> None:
        assert "--yes" in install_command(["runc"])


class TestCommandLine:
    def test_an_error_is_one_sentence_and_status_1(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("SLIPWAY_E2E_PROVIDER", "nonsense")
        assert cli.main(["kubeconfig"]) == 1
        assert capsys.readouterr().err.startswith("error: SLIPWAY_E2E_PROVIDER is 'nonsense'; set it to")

    def test_no_cluster_means_status_3(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
        monkeypatch.setenv("SLIPWAY_E2E_PROVIDER", "local")
        assert cli.main(["status"]) == 3
        assert "running     no" in capsys.readouterr().out

    def test_a_kubeconfig_of_no_cluster_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
        monkeypatch.setenv("SLIPWAY_E2E_PROVIDER", "local")
        assert cli.main(["kubeconfig"]) == 1
        assert "python3 -m e2e.cluster up" in capsys.readouterr().err
