"""The generated CRD: structural, bounded, small, and never out of step with the models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from slipway_api.crd import custom_resource_definitions
from slipway_api.structural import NotStructural, structural

ROOT = Path(__file__).resolve().parents[2]
CRDS = custom_resource_definitions()
SCHEMAS = [crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in CRDS]
each_schema = pytest.mark.parametrize("schema", SCHEMAS, ids=[crd["spec"]["names"]["kind"] for crd in CRDS])


def walk(schema, path="") -> list[tuple[str, dict]]:
    nodes = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        nodes += walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            nodes += walk(schema[key], f"{path}[]")
    return nodes


def test_the_committed_files_are_what_the_models_say():
    result = subprocess.run(
        [sys.executable, ROOT / "crds" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@each_schema
def test_every_node_is_structural(schema):
    for path, node in walk(schema):
        assert "$ref" not in node, path
        assert not {"oneOf", "allOf", "not", "const", "title", "exclusiveMinimum"} & node.keys(), path
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path
        assert node.get("additionalProperties") is not False, path
        assert node.get("type") != "number", path


@each_schema
def test_everything_a_user_writes_is_bounded(schema):
    for path, node in walk(schema["properties"]["spec"]):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


@each_schema
def test_everything_is_described(schema):
    for path, node in walk(schema):
        if path.startswith((".spec", ".status")) and not path.endswith("[]"):
            assert node.get("description"), path


@each_schema
def test_defaults_only_on_scalars_outside_lists(schema):
    for path, node in walk(schema):
        if "default" in node:
            assert node["type"] not in ("object", "array"), path
            assert "[]" not in path, path


def test_stays_far_below_the_limit_of_client_side_apply():
    for crd in CRDS:
        assert len(json.dumps(crd)) < 64 * 1024, crd["metadata"]["name"]


@each_schema
def test_every_rule_says_what_to_write(schema):
    rules = [rule for _, node in walk(schema) for rule in node.get("x-kubernetes-validations", [])]
    assert len(rules) >= 8
    for rule in rules:
        assert rule["rule"]
        assert len(rule["message"]) > 20


@pytest.mark.parametrize("kind", [float, tuple[int, str], int | str])
def test_a_type_without_structural_form_is_refused_at_generation(kind):
    model = type("Model", (BaseModel,), {"__annotations__": {"field": kind}})
    with pytest.raises(NotStructural, match="field"):
        structural(model.model_json_schema())
