"""`plan` and `render` without a cluster, and what `plan` says of a cluster's objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, SINGLE, Object, key_of
from slipway_operator.plan import Installation, World
from slipway_operator.plugin.installation import settings_of
from slipway_operator.plugin.main import main, parse
from slipway_operator.plugin.preview import preview

GIB = 1 << 30
FACTS = {
    "version": 1,
    "commit": "1" * 40,
    "license": "apache-2.0",
    "facts": {
        "architecture": "llama", "dtype": "BF16", "format": "safetensors", "head_dim": 128, "heads": 32,
        "hidden": 4096, "intermediate": 14336, "kv_heads": 8, "kv_layers": 32, "kv_width": 2048, "layers": 32,
        "max_position": 131072, "parameters": 8_030_261_248, "vocab": 128256,
        "weights": {"BF16": 16_060_522_496},
    },
}  # fmt: skip
INSTALLED = Installation("registry.example.com/engine:1")


def written(tmp_path: Path, **spec: Any) -> str:
    body = {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "chat"},
        "spec": {"model": {"source": "hf://meta-llama/Llama-3.1-8B-Instruct"}, **spec},
    }
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(body))
    return str(path)


@pytest.fixture
def facts(tmp_path: Path) -> str:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(FACTS))
    return str(path)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = main(["plan", "--offline", "-o", "json", "-f", *arguments])
    (answer,) = [json.loads(capsys.readouterr().out)][0]
    return status, answer


def test_a_model_that_fits_has_a_ledger_and_expected_times(
    tmp_path: Path, facts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, accelerator={"type": "nvidia-h100-80gb"})
    status, answer = planned(capsys, path, "--facts", facts)
    assert status == 0
    memory = answer["plan"]["memory"]
    assert 14 * GIB < memory["weights"] < 17 * GIB
    assert memory["maxTokens"] > 100_000
    assert answer["plan"]["expected"]["tpotMs"]["low"] >= 4  # 16 GB at 3.35 TB/s cannot be faster
    assert {change["kind"] for change in answer["changes"]} >= {"Deployment", "Service", "ControllerRevision"}


def test_a_model_that_does_not_fit_is_refused_with_what_would(
    tmp_path: Path, facts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, accelerator={"type": "nvidia-t4-16gb"})
    status, answer = planned(capsys, path, "--facts", facts)
    assert status == 3
    assert answer["reason"] == "DoesNotFit"
    assert "weights" in answer["message"]
    assert answer["plan"]["alternatives"]
    assert not answer["changes"]


def test_a_wrong_object_is_refused_by_the_schemas_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = planned(capsys, written(tmp_path, replica=3), "--no-inspect")
    assert status == 3
    assert "spec.replica is not a field" in answer["message"]


def test_pin_prints_the_commit(tmp_path: Path, facts: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", written(tmp_path), "--facts", facts, "--pin"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out) == {"spec": {"model": {"revision": "1" * 40}}}
    assert "apache-2.0" in out


@pytest.mark.parametrize("text", ["- 1", "a: [", "kind: Pod\n"])
def test_a_file_without_a_deployment_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main(["plan", "--offline", "-f", str(path)]) == 2
    assert str(path) in capsys.readouterr().err.replace("\n", "")


def test_render_needs_nothing_of_slipway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, replicas=3, rollout={"maxSurge": 2})
    assert main(["render", "-f", path, "--engine-image", "example.com/e:1"]) == 0
    objects = {body["kind"]: body for body in yaml.safe_load_all(capsys.readouterr().out)}
    assert set(objects) == {"Service", "PodDisruptionBudget", "Deployment"}
    deployment = objects["Deployment"]
    assert deployment["metadata"]["name"] == "chat"
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 2
    selected = deployment["spec"]["selector"]["matchLabels"].items()
    assert selected <= deployment["spec"]["template"]["metadata"]["labels"].items()
    for body in objects.values():
        assert "ownerReferences" not in body["metadata"]
        assert "namespace" not in body["metadata"]
        assert "app.kubernetes.io/managed-by" not in body["metadata"]["labels"]


def _applied(parent: Object) -> World:
    """Return the world after one reconcile, as if the API server stored what was sent."""
    from slipway_operator.plan import Plan, make_plan

    plan = make_plan(World(parent), INSTALLED, 0.0)
    assert isinstance(plan, Plan)
    by_kind: dict[Any, list[Object]] = {}
    for kind, body in plan.children:
        by_kind.setdefault(kind, []).append(body)
    return World(
        parent,
        children={kind: by_kind[kind][0] for kind in SINGLE if kind in by_kind},
        deployments=by_kind[DEPLOYMENT],
        revisions=by_kind[CONTROLLER_REVISION],
    )


def test_an_unchanged_object_changes_nothing_and_an_edit_shows_its_lines(recorded: Any) -> None:
    parent = recorded.parent()
    world = _applied(parent)
    assert {change.action for change in preview(world, INSTALLED, None, "").changes} == {"unchanged"}
    edited = recorded.parent(replicas=2)
    after = preview(World(edited, world.children, world.deployments, world.revisions), INSTALLED, None, "")
    (change,) = [change for change in after.changes if change.action == "change"]
    assert change.name == key_of(world.deployments[0]).name
    assert "-  replicas: 1" in change.lines
    assert "+  replicas: 2" in change.lines


def test_the_operators_own_settings_are_read_from_its_deployment() -> None:
    container = {
        "args": ["run", "--workers=16"],
        "env": [
            {"name": "SLIPWAY_ENGINE_IMAGE", "value": "example.com/e:2"},
            {"name": "SLIPWAY_ADMIT", "value": '[{"namespaceSelector": {}}]'},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    }
    operator: Object = {"spec": {"template": {"spec": {"containers": [container]}}}}
    found = settings_of(operator)
    assert found is not None
    assert found.engine_image == "example.com/e:2"
    assert found.peers == ({"namespaceSelector": {}},)
    container["args"] = ["run", "--from-the-future"]
    assert settings_of(operator) is None


def test_a_message_may_stand_after_flags() -> None:
    assert parse(["chat", "smol", "--temperature", "0", "Say hello."]).message == ["Say hello."]
    assert parse(["chat", "smol", "-n", "a", "one", "-", "two"]).message == ["one", "-", "two"]
    for wrong in (["status", "smol", "extra"], ["chat", "smol", "--tempreature", "1"]):
        with pytest.raises(SystemExit):
            parse(wrong)
