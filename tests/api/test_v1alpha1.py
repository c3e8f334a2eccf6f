"""The object as users write it: what is accepted, and the sentence that refuses the rest."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from slipway_api.v1alpha1 import LLMDeployment

MINIMAL = {
    "apiVersion": "slipway.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "smollm2"},
    "spec": {"model": {"source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"}},
}


def with_spec(**fields):
    manifest = copy.deepcopy(MINIMAL)
    manifest["spec"].update(fields)
    return manifest


def test_a_model_is_all_that_must_be_said():
    parsed = LLMDeployment.model_validate(MINIMAL)
    assert parsed.spec.replicas == 1
    assert parsed.spec.suspend is False
    assert parsed.spec.engine is None


def test_round_trip_keeps_what_was_written_and_adds_nothing():
    manifest = with_spec(
        replicas=2,
        engine={"maxModelLen": 2048, "prefixCaching": False},
        podTemplate={
            "env": [{"name": "A", "value": "b"}],
            "resources": {"limits": {"memory": "4Gi", "cpu": "2"}},
        },
    )
    parsed = LLMDeployment.model_validate(manifest)
    assert parsed.model_dump(by_alias=True, exclude_unset=True) == manifest


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"replicas": -1}, "greater than or equal to 0"),
        ({"replicas": "two"}, "valid integer"),
        ({"model": {"source": "SmolLM2"}}, "must be hf://ORG/NAME"),
        ({"model": {"source": ""}}, "at least 1 character"),
        ({"modle": {}}, "Extra inputs are not permitted"),
        ({"rollout": {"maxSurge": 0, "maxUnavailable": 0}}, "set one of them to 1"),
        ({"model": {"source": "file:///m", "revision": "main"}}, "only means something for an hf:// source"),
        (
            {"model": {"source": "file:///m", "credentials": {"secretName": "t"}}},
            "only used by hf:// and https://",
        ),
        ({"podTemplate": {"env": [{"name": "SLIPWAY_X", "value": "1"}]}}, "operator's own prefix"),
        ({"podTemplate": {"env": [{"name": "A"}]}}, "exactly one of value and valueFrom"),
        ({"podTemplate": {"env": [{"name": "A", "valueFrom": {}}]}}, "exactly one of secretKeyRef"),
        ({"podTemplate": {"resources": {"limits": {"memory": "4 GB"}}}}, "write for example"),
        ({"engine": {"memoryPercent": 0}}, "greater than or equal to 10"),
    ],
)
def test_refuses_with_a_sentence(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        LLMDeployment.model_validate(with_spec(**fields))


@pytest.mark.parametrize("name", ["a" * 41, "Upper", "1st", "dot.ted", "trailing-", ""])
def test_a_name_has_to_be_a_services_name(name):
    with pytest.raises(ValidationError, match="becomes the name of a Service"):
        LLMDeployment.model_validate({**MINIMAL, "metadata": {"name": name}})
