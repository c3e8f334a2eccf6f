"""Nodes of the capacity asked for, whatever the user's own affinity says."""

from __future__ import annotations

import pytest

from slipway_operator.kinds import DEPLOYMENT
from slipway_operator.plan.nodes import SPOT_LABELS

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
ZONE = {"key": "zone", "operator": "In", "values": ["a"]}
USER = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [ZONE]}]}}}


@pytest.fixture
def pod_of(recorded):
    def pod(affinity=None, **accelerator):
        parent = recorded.parent(accelerator=accelerator, podTemplate={"affinity": affinity or {}})
        return recorded.plan(parent).of_kind(DEPLOYMENT)[0]["spec"]["template"]["spec"]

    return pod


def matches(term, labels) -> bool:
    """What the scheduler does with these expressions."""
    return all(
        (labels.get(one["key"]) in one["values"]) == (one["operator"] == "In")
        for one in term["matchExpressions"]
    )


def allowed(pod, labels) -> bool:
    terms = pod["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    return any(matches(term, labels) for term in terms)


@pytest.mark.parametrize(("key", "value"), SPOT_LABELS)
def test_spot_is_any_of_the_labels_and_on_demand_none(pod_of, key, value):
    spot, ordinary = {"zone": "a", key: value}, {"zone": "a"}
    for affinity in (None, USER):
        assert allowed(pod_of(affinity, capacity="spot"), spot)
        assert not allowed(pod_of(affinity, capacity="spot"), ordinary)
        assert allowed(pod_of(affinity, capacity="on-demand"), ordinary)
        assert not allowed(pod_of(affinity, capacity="on-demand"), spot)
    assert not allowed(pod_of(USER, capacity="spot"), {"zone": "b", key: value})


def test_the_accelerator_is_asked_for_in_every_term(pod_of):
    pod = pod_of(None, type="nvidia-l4-24gb", capacity="spot")
    spot = {"karpenter.sh/capacity-type": "spot"}
    assert allowed(pod, {**spot, "nvidia.com/gpu.product": "NVIDIA-L4"})
    assert not allowed(pod, spot)


def test_preferring_spot_refuses_nothing(pod_of):
    pod = pod_of(None, capacity="prefer-spot")
    node = pod["affinity"]["nodeAffinity"]
    assert REQUIRED not in node
    assert [one["weight"] for one in node[PREFERRED]] == [100] * len(SPOT_LABELS)
    assert {one["key"] for one in pod["tolerations"]} < {key for key, _ in SPOT_LABELS}


def test_nothing_asked_for_is_nothing_written(pod_of):
    pod = pod_of()
    assert "affinity" not in pod
    assert "tolerations" not in pod
