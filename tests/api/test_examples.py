"""The examples are objects as the API takes them, and together they show each of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway_api.v1alpha1 import LLMClass, LLMDeployment, LLMDeploymentSpec

ROOT = Path(__file__).resolve().parents[2]
# Other folders hold objects of other programs (Argo CD, Flux, Kubernetes itself).
FILES = sorted(path for folder in ("", "reserved") for path in (ROOT / "examples" / folder).glob("*.yaml"))
KINDS: dict[str, Any] = {"LLMDeployment": LLMDeployment, "LLMClass": LLMClass}


def objects(path: Path) -> list[dict[str, Any]]:
    return [obj for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")) if obj]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_is_valid(path):
    found = objects(path)
    assert found
    for obj in found:
        KINDS[obj["kind"]].model_validate(obj)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_says_what_it_is_for(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_names_are_unique():
    names = [(obj["kind"], obj["metadata"]["name"]) for path in FILES for obj in objects(path)]
    assert len(names) == len(set(names))


def test_every_part_of_the_object_is_shown():
    shown = {
        field
        for path in FILES
        for obj in objects(path)
        if obj["kind"] == "LLMDeployment"
        for field in obj["spec"]
    }
    assert {info.alias for info in LLMDeploymentSpec.model_fields.values()} - shown == {"suspend"}
