"""Degrees of parallelism: only those that cut nothing unevenly, in pods of one size that a node can hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.planner import models

from slipway_api.catalogue import CATALOGUE
from slipway_api.device import device_of
from slipway_operator.plan.placement import IllegalDegree, place, tensor_degrees

H100 = device_of(CATALOGUE["nvidia-h100-80gb"])
CPU = device_of(CATALOGUE["cpu"], memory=8 << 30)


def test_degrees_of_known_models(known):
    assert tensor_degrees(known.llama_8b, 8) == (1, 2, 4, 8)
    assert tensor_degrees(known.llama_8b, 64) == (1, 2, 4, 8, 16, 32)  # beyond 8, key heads are repeated
    assert tensor_degrees(known.small, 8) == (1, 3)


def test_a_degree_that_is_not_possible_is_told_with_those_that_are(known):
    with pytest.raises(IllegalDegree, match=r"32 heads.* allow 1, 2, 4 or 8"):
        place(known.llama_8b, H100, 6, 1)
    with pytest.raises(IllegalDegree, match="more than the model's 32 layers"):
        place(known.llama_8b, H100, 1, 33)
    with pytest.raises(IllegalDegree, match="on a CPU is one pod"):
        place(known.llama_8b, CPU, 2, 1)


@pytest.mark.parametrize(
    ("tensor", "pipeline", "accelerators", "pods"),
    [(1, 1, 1, 1), (8, 1, 8, 1), (4, 2, 8, 1), (8, 2, 16, 2), (4, 3, 12, 3), (2, 6, 12, 2), (1, 16, 16, 2)],
)
def test_stages_share_a_pod_where_a_node_has_room(known, tensor, pipeline, accelerators, pods):
    placed = place(known.llama_8b, H100, tensor, pipeline)
    assert (placed.accelerators, placed.pods) == (accelerators, pods)


@given(facts=models.any_facts(), tensor=st.integers(1, 64), pipeline=st.integers(1, 64))
def test_whatever_is_placed_is_even(facts, tensor, pipeline):
    try:
        placed = place(facts, H100, tensor, pipeline)
    except IllegalDegree:
        return
    assert facts.heads % tensor == 0
    assert facts.intermediate % tensor == 0
    assert pipeline <= facts.layers
    assert placed.accelerators == placed.pods * placed.accelerators_per_pod == tensor * pipeline
    assert placed.accelerators_per_pod <= H100.per_node
    assert placed.accelerators_per_pod % tensor == 0
