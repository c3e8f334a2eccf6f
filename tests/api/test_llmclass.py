"""A platform team's class: what it may say, and how an object's absent fields are taken from it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from slipway_api.v1alpha1 import ClassDefaults, LLMClass, LLMDeploymentSpec, with_defaults

CLASS = {
    "apiVersion": "slipway.dev/v1alpha1",
    "kind": "LLMClass",
    "metadata": {"name": "standard"},
    "spec": {
        "default": True,
        "requireClass": True,
        "defaults": {
            "accelerator": {"type": "nvidia-l4-24gb", "capacity": "spot"},
            "engine": {"maxNumSeqs": 32, "maxModelLen": 8192},
            "cache": {"mode": "Shared", "storageClassName": "fast"},
            "podTemplate": {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"operator": "Exists"}]},
        },
        "ceilings": {"replicas": 8, "memory": "64Gi"},
        "allowedNamespaces": ["team-*", "demo"],
        "allowedSources": ["hf://HuggingFaceTB/"],
        "allowedImages": ["registry.example/slipway/"],
        "allow": {"env": True, "podTemplate": ["labels"]},
        "upgrade": {
            "policy": "Automatic",
            "window": {"days": ["Sat"], "start": "02:00", "durationMinutes": 120},
            "maxConcurrent": 2,
        },
        "network": {"hfEndpoint": "https://hub.example", "caBundle": {"configMapName": "ca"}},
        "signatures": {"publicKeys": ["-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"]},
    },
}


def spec_of(**fields) -> LLMDeploymentSpec:
    return LLMDeploymentSpec.model_validate({"model": {"source": "hf://a/b"}, **fields})


def defaults_of(**fields) -> ClassDefaults:
    return ClassDefaults.model_validate(fields)


def test_round_trip():
    assert LLMClass.model_validate(CLASS).model_dump(by_alias=True, exclude_unset=True) == CLASS


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"allowedNamespaces": ["*-team"]}, "team-\\*"),
        ({"allowedSources": ["HuggingFaceTB"]}, "must be a model source"),
        ({"network": {"httpProxy": "http://user:pw@proxy"}}, "without user and password"),
        ({"upgrade": {"window": {"start": "24:00", "durationMinutes": 60}}}, "time of day"),
        ({"signatures": {"publicKeys": ["ssh-rsa x"]}}, "public key in PEM"),
        ({"allow": {"podTemplate": ["hostNetwork"]}}, "labels"),
        ({"allowedNamespace": []}, "Extra inputs"),
    ],
)
def test_refuses_with_a_sentence(spec, sentence):
    with pytest.raises(ValidationError, match=sentence):
        LLMClass.model_validate({**CLASS, "spec": spec})


def test_absent_fields_come_from_the_class_and_the_objects_own_win():
    defaults = ClassDefaults.model_validate(CLASS["spec"]["defaults"])
    merged = with_defaults(
        spec_of(engine={"maxNumSeqs": 4}, podTemplate={"tolerations": [], "nodeSelector": {"a": "b"}}),
        defaults,
    )
    assert merged.engine is not None
    assert (merged.engine.max_num_seqs, merged.engine.max_model_len) == (4, 8192)
    assert merged.accelerator == defaults.accelerator
    assert merged.model.cache == defaults.cache
    assert merged.pod_template is not None
    assert merged.pod_template.tolerations == []
    assert merged.pod_template.node_selector == {"a": "b"}


def test_what_only_makes_sense_together_is_taken_as_a_whole():
    defaults = defaults_of(accelerator={"type": "nvidia-a100-80gb", "mig": {"profile": "1g.10gb"}})
    merged = with_defaults(spec_of(accelerator={"type": "nvidia-l4-24gb"}), defaults)
    assert merged.accelerator is not None
    assert merged.accelerator.mig is None


def test_two_halves_that_break_a_rule_together_are_refused():
    defaults = defaults_of(rollout={"maxSurge": 0})
    with pytest.raises(ValidationError, match="set one of them to 1"):
        with_defaults(spec_of(rollout={"maxUnavailable": 0}), defaults)


def test_an_empty_class_changes_nothing():
    spec = spec_of(engine={"maxNumSeqs": 4}, replicas=3)
    assert with_defaults(spec, ClassDefaults()) == spec
