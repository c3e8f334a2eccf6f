"""The planner in its place: facts decide before any pod, and never against pods that serve."""

from __future__ import annotations

import pytest

from slipway_api.conditions import Reason
from slipway_operator.kinds import DEPLOYMENT, POD
from slipway_operator.plan import Plan, Refusal, World, make_plan
from slipway_operator.plan.revision import LABEL_REVISION
from slipway_operator.status import Observation, build_status

SMALL = {"limits": {"memory": "512Mi"}, "requests": {"memory": "512Mi"}}
ENOUGH = {"limits": {"memory": "3Gi"}, "requests": {"memory": "3Gi"}}


@pytest.fixture
def parent_of(recorded):
    def parent(resources, **spec):
        fields = {"model": {"source": "hf://org/name"}, "engine": {"maxModelLen": 2048}, **spec}
        return recorded.parent(podTemplate={"resources": resources}, **fields)

    return parent


def test_what_fits_is_in_the_status(recorded, parent_of):
    parent = parent_of({"limits": {"memory": "3Gi", "cpu": "2"}}, slo={"tpotMs": 500})
    plan = recorded.planned(parent)
    assert isinstance(plan, Plan)
    status = build_status(Observation(recorded.world(parent), plan, recorded.now))["plan"]
    memory = status["memory"]
    assert memory["limit"] == 3 << 30
    assert memory["process"] + memory["weights"] + memory["workspace"] + memory["kvCache"] <= memory["usable"]
    assert memory["maxModelLen"] == 2048
    assert status["expected"]["tpotMs"]["low"] >= 1
    assert "can be met" in status["expected"]["slo"]
    assert status["effective"]


def test_without_a_limit_of_cores_no_times_are_told(recorded, parent_of):
    plan = recorded.planned(parent_of(ENOUGH))
    assert isinstance(plan, Plan)
    assert plan.sizing.status.memory is not None
    assert plan.sizing.status.expected is None
    assert "without a CPU limit" in (plan.sizing.status.message or "")


def test_what_does_not_fit_gets_no_pod_and_the_ways_out(recorded, parent_of):
    parent = parent_of(SMALL)
    refusal = recorded.planned(parent)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.DOES_NOT_FIT
    assert "usable on cpu" in refusal.message
    assert not [child for kind, child in refusal.children if kind in (DEPLOYMENT, POD)]
    status = build_status(Observation(recorded.world(parent), refusal, recorded.now))
    assert any("podTemplate.resources.limits.memory" in way for way in status["plan"]["alternatives"])
    accepted = next(one for one in status["conditions"] if one["type"] == "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "DoesNotFit")
    assert len(accepted["message"]) < 32_768


def test_the_first_way_out_is_one(recorded, parent_of):
    refusal = recorded.planned(parent_of(SMALL))
    assert isinstance(refusal, Refusal)
    assert refusal.sizing is not None
    way = next(one for one in refusal.sizing.alternatives or () if "limits.memory" in one)
    memory = way.split("limits.memory: ")[1].split(" ")[0]
    assert isinstance(recorded.planned(parent_of({"limits": {"memory": memory}})), Plan)


def test_pods_that_serve_are_stronger_than_sums(recorded, parent_of):
    parent = parent_of(ENOUGH)
    pod = recorded.ready(parent)
    larger = recorded.facts(parent)
    larger["data"]["inspection"]["facts"]["weights"]["Q4_1"] *= 100

    def planned(pods):
        return make_plan(World(parent, revisions=[larger], pods=pods), recorded.here, recorded.moment)

    assert isinstance(planned([]), Refusal)
    pod["metadata"]["labels"][LABEL_REVISION] = "of-another"
    assert isinstance(planned([pod]), Refusal)
    proven = planned([recorded.ready(parent)])
    assert isinstance(proven, Plan)
    assert "It serves, though by the sums the model does not fit" in (proven.sizing.status.message or "")
