"""What the API knows and the operator does not do yet is refused by name, never ignored."""

from __future__ import annotations

import pytest

from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.plan.support import UNSUPPORTED, unsupported_field

SET = {
    "model.adapters": {"model": {"source": "hf://a/b", "adapters": [{"name": "x", "source": "hf://a/c"}]}},
    "model.trustRemoteCode": {"model": {"source": "hf://a/b", "trustRemoteCode": True}},
    "engine.speculative": {"engine": {"speculative": {"method": "ngram"}}},
    "quantization.weights": {"quantization": {"weights": "fp8"}},
    "quantization.kvCache": {"quantization": {"kvCache": "fp8"}},
    "parallelism.tensor": {"parallelism": {"tensor": 2}},
    "parallelism.pipeline": {"parallelism": {"pipeline": 2}},
    "parallelism.expert": {"parallelism": {"expert": True}},
    "autoscaling": {"autoscaling": {"maxReplicas": 2}},
    "rollout.paused": {"rollout": {"paused": True}},
    "rollout.canary": {"rollout": {"canary": {"replicas": 1}}},
    "rollout.upgradePolicy": {"rollout": {"upgradePolicy": "Automatic"}},
    "routing.maxHeldRequests": {"routing": {"maxHeldRequests": 5}},
    "routing.maxHoldSeconds": {"routing": {"maxHoldSeconds": 5}},
}


def spec_of(**fields) -> LLMDeploymentSpec:
    return LLMDeploymentSpec.model_validate({"model": {"source": "hf://a/b"}, **fields})


@pytest.mark.parametrize("path", UNSUPPORTED)
def test_each_field_is_refused_by_name(path):
    sentence = unsupported_field(spec_of(**SET[path]))
    assert sentence is not None
    assert "is not supported by this version" in sentence
    assert any(
        f"spec.{other} " in sentence for other in UNSUPPORTED if other.split(".")[0] == path.split(".")[0]
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"quantization": {"weights": "auto"}, "parallelism": {"tensor": 1}},
        {"engine": {"runtime": "slipway", "extraArgs": []}, "rollout": {"paused": False}},
        {"slo": {"ttftMs": 100}, "accelerator": {"type": "nvidia-l4-24gb"}},
        {"routing": {"policy": "prefix-affine", "prefixCharacters": 500}},
    ],
)
def test_what_asks_for_nothing_more_is_accepted(fields):
    assert unsupported_field(spec_of(**fields)) is None
