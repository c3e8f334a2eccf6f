"""From an object and its model's facts to `status.plan`, or to the sentence that refuses."""

from __future__ import annotations

from typing import Any

import pytest

from slipway_api.catalogue import CATALOGUE
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.plan.sizing import Engine, abilities, size, wanted_of


def spec_of(**fields: Any) -> LLMDeploymentSpec:
    return LLMDeploymentSpec.model_validate({"model": {"source": "hf://a/b"}, **fields})


def engine_of(kind: str = "nvidia-l4-24gb", **changes: Any) -> Engine:
    settings: dict[str, Any] = {
        "max_model_len": 8192, "max_num_seqs": 64, "max_batch_tokens": 512, "memory_percent": 90,
        "requests": {}, "limits": {}, **changes,
    }  # fmt: skip
    return Engine(CATALOGUE[kind], **settings)


def test_what_fits_is_told_in_full(known):
    sizing = size(spec_of(), engine_of(), known.llama_8b, "", CATALOGUE)
    assert sizing.refusal is None
    status, memory = sizing.status, sizing.status.memory
    assert memory is not None
    assert (status.accelerators_per_replica, status.pods_per_replica) == (1, 1)
    parts = (memory.process, memory.weights, memory.workspace, memory.kv_cache)
    assert sum(part or 0 for part in parts) <= (memory.usable or 0)
    assert memory.max_model_len == 8192
    assert (memory.max_sequences or 0) * 8192 <= (memory.max_tokens or 0)
    assert status.expected is not None
    assert status.expected.tpot_ms is not None
    assert 45 <= status.expected.tpot_ms.low < status.expected.tpot_ms.high
    assert status.estimated  # there was no header


def test_what_does_not_fit_is_refused_with_the_arithmetic_and_the_ways_out(known):
    exact = known.llama_8b.model_copy(update={"estimated": False})
    sizing = size(spec_of(), engine_of("nvidia-t4-16gb"), exact, "", CATALOGUE)
    assert sizing.refusal is not None
    assert "15317 MiB weights" in sizing.refusal
    assert "the nearest that fit: quantization.weights: int8 (" in sizing.refusal
    assert sizing.status.alternatives


@pytest.mark.parametrize("case", ["other engine", "no headers"])
def test_an_estimate_warns_and_does_not_refuse(known, case):
    facts = known.llama_8b.model_copy(update={"estimated": case == "no headers"})
    sizing = size(spec_of(), engine_of("nvidia-t4-16gb", exact=case == "no headers"), facts, "", CATALOGUE)
    assert sizing.refusal is None
    assert "does not fit" in (sizing.status.message or "")
    assert sizing.status.alternatives


def test_without_facts_the_reason_is_told():
    sizing = size(spec_of(), engine_of(), None, "The model is inspected.", CATALOGUE)
    assert sizing.refusal is None
    assert sizing.status.message == "The model is inspected."


def test_without_memory_a_container_has_no_figures(known):
    assert "no memory limit" in (
        size(spec_of(), engine_of("cpu"), known.small, "", CATALOGUE).status.message or ""
    )


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        ({"tpotMs": 10}, "cannot be met: the hardware allows 5"),
        ({"tpotMs": 80}, "is in doubt"),
        ({"tpotMs": 500, "ttftMs": 5000}, "slo.ttftMs 5000 can be met"),
    ],
)
def test_promises_are_held_against_the_roofline(known, slo, said):
    status = size(spec_of(slo=slo), engine_of(), known.llama_8b, "", CATALOGUE).status
    assert status.expected is not None
    assert said in (status.expected.slo or "")


def test_the_container_is_the_device_of_a_cpu():
    wanted = wanted_of(spec_of(), engine_of("cpu", requests={"cpu": "500m"}, limits={"memory": "3Gi"}))
    assert (wanted.memory, wanted.cores) == (3 << 30, 0.5)


def test_only_what_this_version_acts_on_is_proposed():
    ours, theirs = abilities("slipway"), abilities("vllm")
    assert (ours.tensor, set(ours.weights), ours.kv_cache) == (1, {"int8", "int4"}, ("int8",))
    assert (theirs.tensor, theirs.weights, theirs.kv_cache) == (64, ("fp8",), ("fp8",))
