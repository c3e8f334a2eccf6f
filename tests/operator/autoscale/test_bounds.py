"""Behaviour and schedules: the words of autoscaling/v2, and five cron fields."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from slipway_api.v1alpha1 import AutoscalingSpec, SloSpec
from slipway_operator import cron
from slipway_operator.autoscale.behavior import Rate, Speed, least, most, noted
from slipway_operator.autoscale.bounds import bounds_of, capped
from slipway_operator.autoscale.load import Load, PodLoad
from slipway_operator.autoscale.policy import decide
from slipway_operator.autoscale.terms import DOWN, UP, Memory, Why


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def bounds(now: float = 0.0, **fields: Any):
    return bounds_of(AutoscalingSpec.model_validate({"maxReplicas": 50, **fields}), None, 10, now)


def test_what_is_left_out_stays_as_it_is_built_in():
    plain = bounds()
    assert (plain.minimum, plain.maximum, plain.up, plain.down) == (1, 50, UP, DOWN)
    careful = bounds(behavior={"scaleDown": {"stabilizationWindowSeconds": 60}})
    assert (careful.down.window, careful.down.rates, careful.rest) == (60, DOWN.rates, 60)


def test_targets_are_in_the_units_of_the_api():
    metrics = bounds(
        metrics=[
            {"type": "KVCacheUtilization", "target": 80},
            {"type": "TimeToFirstToken", "target": 1500},
            {"type": "InFlight", "target": 12},
            {"type": "Prometheus", "target": 3, "query": "sum(x)"},
        ]
    ).metrics
    assert [metric.target for metric in metrics] == pytest.approx([0.8, 1.5, 12, 3])
    assert metrics[3].name == "metrics[3]"


def test_the_slos_first_token_is_a_target_where_no_metric_is_named():
    slo = SloSpec.model_validate({"ttftMs": 2000})
    plain, own = (
        bounds_of(AutoscalingSpec.model_validate({"maxReplicas": 8, **more}), slo, 10, 0.0)
        for more in ({}, {"metrics": [{"type": "InFlight", "target": "5"}]})
    )
    assert [(one.kind, one.target) for one in plain.metrics] == [
        ("InFlight", None),
        ("TimeToFirstToken", 2.0),
    ]
    assert [one.kind for one in own.metrics] == ["InFlight"]
    pods = tuple(PodLoad(f"p{i}", 0.0, 1, 0) for i in range(4))
    slow = Load(0.0, 4, 4, pods, ttft=30.0)
    assert decide(plain, Memory(), slow)[0].replicas == 6  # half as many again, however late
    assert decide(plain, Memory(), replace(slow, current=5))[0].replicas == 5  # one is on its way
    unknown = replace(slow, ttft=None)  # an engine that does not tell
    assert decide(plain, Memory(), unknown)[0].why != Why.STALE
    later = [
        replace(slow, now=at, ttft=None, pods=tuple(replace(p, at=at) for p in pods))
        for at in range(0, 400, 10)
    ]
    memory, counts = Memory(), set()
    for one in later:
        decision, memory = decide(plain, memory, one)
        counts.add(decision.replicas)
    assert min(counts) == 3  # nor does it hold replicas back


def test_one_replica_waits_for_a_node_and_only_the_schedulers_word_counts():
    def pod(reason: str | None) -> dict[str, Any]:
        found = {"type": "PodScheduled", "status": "False" if reason else "True", "reason": reason or ""}
        return {"status": {"conditions": [found]}}

    plain = bounds(minReplicas=2)
    assert capped(plain, [pod(None)] * 3) == plain
    assert capped(plain, [*[pod(None)] * 3, pod("Unschedulable"), pod("Unschedulable")]).maximum == 4
    assert capped(plain, [*[pod(None)] * 3, pod("SchedulingGated"), {"status": {}}]) == plain
    assert capped(plain, [pod("Unschedulable")] * 4).maximum == 2  # minReplicas
    assert capped(plain, []) == plain


def test_of_several_policies_the_chosen_one_counts_with_what_its_period_saw():
    rates = (Rate("Pods", 4, 60), Rate("Percent", 100, 60))
    steps = noted(noted((), 0.0, 3), 50.0, 1)
    assert most(Speed(rates, 0), steps, 5, 55.0) == 5  # it was 1 at the beginning of the period
    assert most(Speed(rates, 0), steps, 5, 65.0) == 8  # and is 4 a little later
    assert most(Speed(rates, 0, "Min"), (), 10, 0.0) == 14
    assert most(Speed(rates, 0), (), 10, 0.0) == 20
    assert most(Speed(rates, 0, "Disabled"), (), 10, 0.0) == 10
    assert least(Speed(rates, 0), (), 10, 0.0) == 0
    assert least(Speed(rates, 0, "Min"), (), 10, 0.0) == 6
    assert least(Speed((Rate("Percent", 10, 60),), 0), (), 15, 0.0) == 13
    assert least(Speed(rates, 0, "Disabled"), (), 10, 0.0) == 10


def test_a_peak_shorter_than_the_window_up_adds_nothing():
    limits = bounds(behavior={"scaleUp": {"stabilizationWindowSeconds": 60}})
    memory, seen = Memory(), []
    for now in range(0, 120, 10):
        running = 10.0 if now < 30 else 1.0
        load = Load(float(now), 1, 1, (PodLoad("p", now, running, 20.0 if now < 30 else 0.0),))
        decision, memory = decide(limits, memory, load)
        seen.append(decision.replicas)
    assert set(seen) == {1}


def test_disabled_never_goes_that_way():
    limits = bounds(behavior={"scaleUp": {"selectPolicy": "Disabled"}})
    decision, _ = decide(limits, Memory(), Load(0.0, 1, 1, (PodLoad("p", 0.0, 10, 50),)))
    assert (decision.replicas, decision.why) == (1, Why.WAITING)
    below, _ = decide(bounds(minReplicas=3), Memory(), Load(0.0, 1, 1, (PodLoad("p", 0.0, 0, 0),)))
    assert below.replicas == 3


def test_a_metric_that_cannot_be_read_forbids_down_and_not_up():
    limits = bounds(metrics=[{"type": "InFlight"}, {"type": "Prometheus", "target": 1, "query": "x"}])
    memory = Memory()
    for now in range(0, 600, 10):
        pods = tuple(PodLoad(f"p{i}", now, 0.1, 0) for i in range(3))
        load = Load(float(now), 3, 3, pods, values=(("metrics[1]", None),))
        decision, memory = decide(limits, memory, load)
        assert decision.replicas == 3
    assert "metrics[1] could not be read" in decision.text
    full = tuple(PodLoad(f"p{i}", 600, 10, 9) for i in range(3))
    decision, _ = decide(limits, memory, Load(600.0, 3, 3, full, values=(("metrics[1]", None),)))
    assert decision.replicas > 3


OFFICE = {
    "name": "office",
    "start": "30 7 * * 1-5",
    "durationSeconds": 36_000,
    "minReplicas": 3,
    "timeZone": "Europe/Berlin",
}


@pytest.mark.parametrize(
    ("now", "floor"),
    [
        ("2026-07-06T05:29:00Z", 1),  # Monday, 7:29 in Berlin
        ("2026-07-06T05:30:00Z", 3),
        ("2026-07-06T15:29:59Z", 3),
        ("2026-07-06T15:30:00Z", 1),
        ("2026-07-05T08:00:00Z", 1),  # Sunday
        ("2026-01-05T06:30:00Z", 3),  # winter: an hour later in UTC
        ("2026-01-05T05:30:00Z", 1),
    ],
)
def test_a_schedule_moves_the_floor_in_its_own_zone(now, floor):
    assert bounds(moment(now), schedules=[OFFICE]).minimum == floor


@pytest.mark.parametrize(
    ("text", "now", "begun"),
    [
        ("*/15 * * * *", "2026-03-01T10:44:00Z", "2026-03-01T10:30:00Z"),
        ("0 0 1 * *", "2026-03-05T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("0 0 * * 7", "2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("0 0 13 * 5", "2026-03-14T00:00:00Z", "2026-03-13T00:00:00Z"),
        ("0 0 2 * 0", "2026-03-03T00:00:00Z", "2026-03-02T00:00:00Z"),  # either kind of day
        ("5,35 8-9 * 3 *", "2026-03-01T09:40:00Z", "2026-03-01T09:35:00Z"),
        ("0 12 * * *", "2026-03-01T11:59:00Z", "2026-02-28T12:00:00Z"),
    ],
)
def test_five_fields_begin_when_crontab_would(text, now, begun):
    assert cron.parse(text).begun(moment(now), UTC, 7 * 86_400) == moment(begun)


@pytest.mark.parametrize(
    "text",
    [
        *("* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *"),
        *("1-0 * * * *", "*/0 * * * *", "5- * * * *"),
    ],
)
def test_other_fields_are_refused(text):
    with pytest.raises(ValueError, match=r"write|go from"):
        cron.parse(text)
