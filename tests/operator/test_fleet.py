"""What the operator tells Prometheus of every LLMDeployment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from slipway_api import latency
from slipway_operator.metrics.fleet import Fleet


def told(*objects):
    """Return the samples by name and labels."""
    registry = CollectorRegistry()
    registry.register(Fleet(lambda: objects))
    return {
        (
            sample.name.removeprefix("slipway_llmdeployment_"),
            tuple(sorted(sample.labels.items())),
        ): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def key(name, **labels):
    return name, tuple(sorted({"namespace": "team", "deployment": "chat", **labels}.items()))


@pytest.fixture
def parent(recorded):
    def make(slo=None, **status):
        return {**recorded.parent(**({"slo": slo} if slo else {})), "status": status}

    return make


def test_the_conditions_that_people_alert_on_with_their_reasons(parent):
    conditions = [
        {"type": "Ready", "status": "False", "reason": "Unschedulable"},
        {"type": "Stalled", "status": "True", "reason": "Unschedulable"},
        {"type": "Accepted", "status": "True", "reason": "Accepted"},
        {"type": "AutoscalingActive", "status": "Unknown", "reason": "FailedGetPodsMetric"},
    ]
    found = told(parent(conditions=conditions, ready="1/3", plan={"acceleratorsPerReplica": 2}))
    assert found[key("condition", condition="Ready", reason="Unschedulable")] == 0
    assert found[key("condition", condition="Stalled", reason="Unschedulable")] == 1
    assert found[key("condition", condition="AutoscalingActive", reason="FailedGetPodsMetric")] == 0
    assert not [labels for name, labels in found if ("condition", "Accepted") in labels]
    figures = {name: found[key(name)] for name in ("replicas", "ready_replicas", "accelerators")}
    assert figures == {"replicas": 3, "ready_replicas": 1, "accelerators": 6}


def test_a_promise_as_the_bounds_that_it_falls_between(parent):
    found = told(parent(slo={"ttftMs": 2000, "tpotMs": 150, "objective": "99.5"}))
    assert found[key("slo_seconds", slo="ttft")] == 2
    assert found[key("slo_objective_ratio")] == pytest.approx(0.995)
    shares = {dict(labels)["le"]: value for (name, labels), value in found.items() if name == "slo_share"}
    assert shares == {"1.0": pytest.approx(1 / 3), "2.5": pytest.approx(2 / 3), "0.15": 1}


def test_without_a_promise_there_is_none_and_without_a_status_no_figure(parent):
    names = {name for name, _ in told(parent())}
    assert names == {"info"}


def test_what_was_stored_under_another_schema_does_not_break_the_answer(parent):
    found = told(
        parent(slo={"ttftMs": "soon", "tpotMs": 10, "objective": "often"}, conditions=[{}], ready="x")
    )
    assert found[key("slo_objective_ratio")] == pytest.approx(0.99)
    assert key("slo_seconds", slo="ttft") not in found


def test_an_object_that_is_gone_is_gone_from_the_next_answer(parent):
    assert told(parent())
    assert not told()


@pytest.mark.parametrize("bounds", [latency.FIRST_TOKEN, latency.BETWEEN_TOKENS])
@given(limit=st.floats(0.0001, 4000), values=st.lists(st.floats(0.0, 700), min_size=1, max_size=30))
def test_the_shares_count_what_is_surely_in_time_and_nothing_that_is_surely_late(bounds, limit, values):
    shares = latency.shares(bounds, limit)
    good = sum(share * sum(value <= bound for value in values) for bound, share in shares.items())
    capped = min(limit, bounds[-1])
    below = max((bound for bound in bounds if bound <= capped), default=0.0)
    above = min(bound for bound in bounds if bound >= capped)
    assert sum(value <= below for value in values if below) <= good + 1e-9
    assert good <= sum(value <= above for value in values) + 1e-9
