"""Whatever object is valid: it is planned or refused with a sentence, and always in the same way."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.operator.planner import models

from slipway_api.catalogue import CATALOGUE
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.plan import Plan, Refusal
from slipway_operator.plan.sizing import engine_of, size

SOURCES = [
    "hf://org/name", "https://host.example/a.gguf", "s3://bucket/x", "gs://bucket/x", "oci://host.example/r:1",
    "pvc://claim/x", "file:///models/a.gguf",
]  # fmt: skip
PACKINGS = ["auto", "none", "fp8", "int8", "int4"]


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def parts(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


QUANTITY = st.sampled_from(["1", "500m", "4Gi", "100Gi", "64", "1e3"])
RESOURCES = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "example.com/x"]), QUANTITY, max_size=3
)
SPECS = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"source": st.sampled_from(SOURCES)},
            optional={
                "revision": st.sampled_from(["main", "a" * 40]),
                "servedNames": st.lists(st.sampled_from(["a", "b/c", "d.e"]), min_size=1, max_size=3),
                "credentials": st.sampled_from([{"secretName": "s"}, {"serviceAccountName": "s"}]),
                "cache": parts(mode=st.sampled_from(["Shared", "PerReplica", "Image"]), size=QUANTITY),
            },
        )
    },
    optional={
        "suspend": st.booleans(),
        "replicas": st.integers(0, 5),
        "engine": parts(
            runtime=st.sampled_from(["slipway", "vllm", "sglang", "custom"]),
            custom=parts(port=st.sampled_from([8000, 9000])),
            image=st.just("registry.example/engine:1"),
            maxModelLen=st.integers(16, 300_000),
            maxNumSeqs=st.integers(1, 4096),
            maxBatchTokens=st.integers(16, 1_000_000),
            memoryPercent=st.integers(10, 100),
            prefixCaching=st.booleans(),
        ),
        "quantization": parts(weights=st.sampled_from(PACKINGS), kvCache=st.sampled_from(PACKINGS)),
        "parallelism": parts(
            tensor=st.sampled_from(["auto", 1, 2, 3, 8, 64]),
            pipeline=st.sampled_from([1, 2, 64]),
            expert=st.booleans(),
        ),
        "accelerator": parts(
            type=st.sampled_from([*CATALOGUE, "unknown"]),
            mig=st.sampled_from([{"profile": "1g.10gb"}, {"profile": "7g.999gb"}]),
            capacity=st.sampled_from(["spot", "on-demand", "prefer-spot"]),
        ),
        "slo": parts(ttftMs=st.integers(1, 100_000), tpotMs=st.integers(1, 60_000)),
        "rollout": parts(maxSurge=st.integers(0, 3), maxUnavailable=st.integers(0, 3), paused=st.booleans()),
        "podTemplate": parts(resources=parts(requests=RESOURCES, limits=RESOURCES)),
    },
)


def valid(fields: dict[str, Any]) -> LLMDeploymentSpec:
    try:
        return LLMDeploymentSpec.model_validate(fields)
    except ValidationError:
        assume(False)
        raise


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(fields=SPECS, facts=models.any_facts(), counted=st.booleans())
def test_is_planned_or_refused(recorded, fields, facts, counted):
    spec = valid(fields)
    parent = recorded.parent(**fields)
    plan = recorded.planned(parent)
    assert recorded.planned(parent) == plan
    if isinstance(plan, Refusal):
        assert len(plan.message) > 20
        return
    assert isinstance(plan, Plan)
    facts = facts.model_copy(update={"estimated": not counted})
    sizing = size(spec, engine_of(plan.values), facts, "", CATALOGUE)
    if sizing.refusal is None:
        assert sizing.status.message or sizing.found is not None
    else:
        assert counted
        assert plan.values.profile.ours
    if sizing.found is not None and sizing.found.placement.accelerators:
        devices = sum(int(count) for count in plan.values.layout.devices.values())
        assert devices == sizing.found.placement.accelerators_per_pod
