"""What an object says about devices reaches the pod: counts, slices, degrees, packing."""

from __future__ import annotations

from typing import Any

import pytest

from slipway_api.conditions import Reason
from slipway_operator.kinds import DEPLOYMENT
from slipway_operator.plan import Refusal

HF = {"source": "hf://a/b"}


def engine_of(plan: Any) -> dict[str, Any]:
    found: dict[str, Any] = plan.of_kind(DEPLOYMENT)[0]["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize(
    ("fields", "limits", "arguments"),
    [
        (
            {"accelerator": {"type": "nvidia-h100-80gb", "mig": {"profile": "1g.10gb"}}},
            {"nvidia.com/mig-1g.10gb": "1"},
            [],
        ),
        (
            {
                "accelerator": {"type": "nvidia-l40s-48gb"},
                "engine": {"runtime": "vllm", "image": "vllm:1"},
                "parallelism": {"tensor": 4, "pipeline": 2},
                "quantization": {"weights": "fp8", "kvCache": "fp8"},
            },
            {"nvidia.com/gpu": "8"},
            ["--tensor-parallel-size", "4", "--pipeline-parallel-size", "2", "--quantization", "fp8",
             "--kv-cache-dtype", "fp8"],
        ),
        (
            {"quantization": {"weights": "int4", "kvCache": "none"}},
            {"memory": "2Gi"},
            ["--quantization", "int4", "--kv-cache-dtype", "float32"],
        ),
    ],
)  # fmt: skip
def test_reaches_the_pod(recorded, fields, limits, arguments):
    engine = engine_of(recorded.plan(recorded.parent(model=HF, **fields)))
    assert engine["resources"]["limits"] == limits
    text = " ".join(engine["args"])
    assert " ".join(arguments) in text
    if not arguments:
        assert "--quantization" not in text
        assert "parallel" not in text


@pytest.mark.parametrize(
    ("fields", "reason", "sentence"),
    [
        (
            {"accelerator": {"type": "nvidia-l4-24gb", "mig": {"profile": "1g.10gb"}}},
            Reason.INVALID_SPEC,
            "which has none",
        ),
        (
            {"engine": {"runtime": "vllm", "image": "vllm:1"}, "parallelism": {"tensor": 2}},
            Reason.INVALID_SPEC,
            "a replica on a CPU is one pod",
        ),
        (
            {
                "accelerator": {"type": "nvidia-h100-80gb"},
                "engine": {"runtime": "vllm", "image": "vllm:1"},
                "parallelism": {"tensor": 8, "pipeline": 2},
            },
            Reason.UNSUPPORTED_FIELD,
            "over several nodes",
        ),
        ({"parallelism": {"tensor": 2}}, Reason.UNSUPPORTED_FIELD, "write 1 or auto"),
        (
            {"quantization": {"weights": "fp8"}},
            Reason.UNSUPPORTED_FIELD,
            "write auto or none or int8 or int4",
        ),
    ],
)
def test_is_refused_where_there_is_no_room(recorded, fields, reason, sentence):
    refusal = recorded.planned(recorded.parent(model=HF, **fields))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert sentence in refusal.message
