"""One rule, two readers: what Python refuses the API server refuses, what Python takes it takes.

The CRDs stand beside the real ones under another group, so that no operator and none of its objects notice.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from tests.api import test_llmclass as classes
from tests.api import test_v1alpha1 as deployments

from e2e.conftest import wait_until
from slipway_api.crd import custom_resource_definitions
from slipway_api.v1alpha1 import LLMClass, LLMDeployment

ROOT = Path(__file__).resolve().parent.parent
GROUP = "schema.e2e.slipway.dev"
MODELS: dict[str, type[BaseModel]] = {"LLMDeployment": LLMDeployment, "LLMClass": LLMClass}


def refused_objects() -> list[dict[str, Any]]:
    """Every object that the unit tests say is refused."""
    found = [
        deployments.with_spec(**fields)
        for test in (
            deployments.test_refuses_with_a_sentence,
            deployments.test_refuses_a_part_with_a_sentence,
        )
        for mark in test.pytestmark
        for fields, _ in mark.args[1]
    ]
    for mark in classes.test_refuses_with_a_sentence.pytestmark:
        found += [{**classes.CLASS, "spec": spec} for spec, _ in mark.args[1]]
    return found


def accepted_objects() -> list[dict[str, Any]]:
    """The examples, and objects that have every part."""
    files = [path for folder in ("", "reserved") for path in (ROOT / "examples" / folder).glob("*.yaml")]
    examples = [obj for path in files for obj in yaml.safe_load_all(path.read_text("utf-8")) if obj]
    return [deployments.FULL, classes.CLASS, *examples]


@pytest.fixture(scope="module")
def create(kube):
    """Ask the API server whether it would take an object; its refusal is raised."""
    names = []
    for crd in custom_resource_definitions():
        moved = copy.deepcopy(crd)
        kinds = moved["spec"]["names"]
        moved["metadata"]["name"] = f"{kinds['plural']}.{GROUP}"
        moved["spec"]["group"] = GROUP
        kinds.pop("shortNames", None)
        kinds.pop("categories", None)
        names.append(moved["metadata"]["name"])
        kube("apply", "--server-side", "-f", "-", stdin=moved)
    for name in names:
        kube("wait", "--for=condition=Established", f"crd/{name}", "--timeout=60s")

    def dry_run(obj: dict[str, Any]) -> str:
        moved = {**obj, "apiVersion": f"{GROUP}/v1alpha1"}
        answer: str = kube("create", "--dry-run=server", "-n", "default", "-f", "-", stdin=moved)
        return answer

    wait_until("the kinds are served", lambda: _served(dry_run), timeout=60)
    yield dry_run
    for name in names:
        kube("delete", "crd", name, "--wait=false")


def _served(dry_run: Any) -> bool:
    try:
        return "created" in dry_run(deployments.MINIMAL)
    except RuntimeError:
        return False


def test_the_servers_refusals_are_ours(create):
    taken = []
    for obj in refused_objects():
        with pytest.raises(ValidationError):
            MODELS[obj["kind"]].model_validate(obj)
        try:
            create(obj)
        except RuntimeError:
            continue
        taken.append(obj["spec"])
    assert not taken


def test_the_server_takes_what_we_take(create):
    for obj in accepted_objects():
        MODELS[obj["kind"]].model_validate(obj)
        assert "created" in create(obj), obj["metadata"]["name"]
