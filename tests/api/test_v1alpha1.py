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
            "only used by hf:// and https:// sources",
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


FULL = with_spec(
    className="standard",
    model={
        "source": "hf://a/b",
        "revision": "v1.0",
        "credentials": {"serviceAccountName": "fetcher"},
        "cache": {
            "mode": "Shared",
            "size": "20Gi",
            "storageClassName": "fast",
            "accessMode": "ReadWriteMany",
        },
        "adapters": [{"name": "sql", "source": "s3://bucket/adapters/sql"}],
    },
    engine={"runtime": "slipway", "speculative": {"method": "draft", "draftSource": "hf://a/c", "tokens": 3}},
    quantization={"weights": "fp8", "kvCache": "auto"},
    parallelism={"tensor": "auto", "pipeline": 2},
    accelerator={"type": "nvidia-h100-80gb", "capacity": "prefer-spot"},
    slo={"ttftMs": 2000, "tpotMs": 150, "objective": "99.9"},
    autoscaling={
        "minReplicas": 0,
        "maxReplicas": 8,
        "metrics": [{"type": "InFlight"}, {"type": "Prometheus", "target": "5", "query": "up"}],
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 300,
                "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
            }
        },
        "schedules": [{"name": "day", "start": "0 8 * * 1-5", "durationSeconds": 36000, "minReplicas": 2}],
    },
    rollout={"paused": False, "canary": {"replicas": 1, "holdSeconds": 600}, "upgradePolicy": "Automatic"},
    routing={"policy": "prefix-affine", "prefixCharacters": 256},
    podTemplate={
        "volumes": [{"name": "certs", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "certs", "mountPath": "/certs", "readOnly": True}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}],
    },
)


def test_every_part_survives_a_round_trip():
    parsed = LLMDeployment.model_validate(FULL)
    assert parsed.model_dump(by_alias=True, exclude_unset=True) == FULL


SOURCE = "hf://a/b"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": {"source": SOURCE, "credentials": {}}}, "exactly one of credentials.secretName"),
        ({"model": {"source": SOURCE, "cache": {"mode": "Image"}}}, "mounts an oci:// source"),
        ({"model": {"source": SOURCE, "adapters": [{"name": "a", "source": "b"}]}}, "must be hf://ORG/NAME"),
        ({"engine": {"runtime": "custom"}}, "engine.custom belongs to"),
        ({"engine": {"custom": {}}}, "engine.custom belongs to"),
        ({"engine": {"runtime": "custom", "custom": {"healthPath": "health"}}}, "path of a URL"),
        ({"engine": {"speculative": {"method": "ngram", "draftSource": SOURCE}}}, "belongs to method draft"),
        ({"engine": {"speculative": {"method": "draft"}}}, "belongs to method draft"),
        ({"parallelism": {"tensor": 0}}, "auto or a number from 1 to 64"),
        ({"parallelism": {"tensor": True}}, "auto or a number from 1 to 64"),
        ({"parallelism": {"tensor": "all"}}, "auto or a number from 1 to 64"),
        ({"accelerator": {"mig": {"profile": "9g.10gb"}}}, "MIG profile"),
        ({"accelerator": {"type": "cpu", "mig": {"profile": "1g.10gb"}}}, "slice of an NVIDIA GPU"),
        (
            {"accelerator": {"mig": {"profile": "1g.10gb"}}, "parallelism": {"tensor": 2}},
            "exclude each other",
        ),
        ({"slo": {"objective": "100"}}, "above 0 and below 100"),
        ({"slo": {"objective": 0}}, "above 0 and below 100"),
        ({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "raise maxReplicas"),
        ({"autoscaling": {"maxReplicas": 2, "metrics": [{"type": "QueueDepth"}]}}, "target is missing"),
        (
            {"autoscaling": {"maxReplicas": 2, "metrics": [{"type": "Prometheus", "target": 1}]}},
            "query belongs",
        ),
        (
            {
                "autoscaling": {
                    "maxReplicas": 2,
                    "schedules": [{"name": "a", "start": "8am", "durationSeconds": 60, "minReplicas": 1}],
                }
            },
            "five cron fields",
        ),
        ({"podTemplate": {"volumes": [{"name": "a"}]}}, "exactly one of configMap"),
        ({"podTemplate": {"volumes": [{"name": "model", "emptyDir": {}}]}}, "are taken"),
        ({"podTemplate": {"volumeMounts": [{"name": "a", "mountPath": "/a"}]}}, "add the volume"),
        (
            {
                "podTemplate": {
                    "volumes": [{"name": "a", "emptyDir": {}}],
                    "volumeMounts": [{"name": "a", "mountPath": "/var/lib/slipway/model"}],
                }
            },
            "are Slipway's own",
        ),
    ],
)
def test_refuses_a_part_with_a_sentence(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        LLMDeployment.model_validate(with_spec(**fields))
