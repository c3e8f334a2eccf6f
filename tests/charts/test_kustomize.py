"""The Kustomize base is what the chart renders, and whole by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.generate.__main__ import KUSTOMIZE, kustomized


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    listed = yaml.safe_load((KUSTOMIZE / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        file.name for file in KUSTOMIZE.glob("*.yaml") if "kustom" not in file.name
    )
    return [obj for name in listed for obj in yaml.safe_load_all((KUSTOMIZE / name).read_text())]


def test_it_is_current() -> None:
    files: dict[Path, str] = kustomized()
    stale = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
    assert not stale, "run `make generate`"


def test_it_bears_no_mark_of_helm(objects: list[dict[str, Any]]) -> None:
    assert (
        "helm"
        not in yaml.safe_dump([obj for obj in objects if obj["kind"] != "CustomResourceDefinition"]).lower()
    )


def test_its_namespace_is_there_for_all(objects: list[dict[str, Any]]) -> None:
    namespaces = {obj["metadata"].get("namespace") for obj in objects} - {None}
    made = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Namespace"}
    assert namespaces == made == {"slipway-system"}
    kinds = [obj["kind"] for obj in objects]
    assert kinds.count("CustomResourceDefinition") == 2
    assert kinds.count("Deployment") == 1
