"""What engines measured reaches the status once, and nobody is asked without end."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from slipway_api.v1alpha1 import MemoryStatus
from slipway_operator import measured
from slipway_operator.kinds import Key
from slipway_operator.measured import ATTEMPTS, Measurements, read
from slipway_operator.status import Observation, build_status
from slipway_operator.status.measured import told_before, who_knows

PARTS = {"limit": 3 << 30, "usable": 2 << 30, "process": 1, "weights": 96 << 20, "workspace": 2, "kvCache": 3}
KEY = Key("team", "chat")
FOUND = MemoryStatus(weights=7)


def exposition(parts) -> str:
    registry = CollectorRegistry()
    memory = Gauge("slipway:memory_bytes", "", ["model_name", "part"], registry=registry)
    for part, size in parts.items():
        memory.labels('odd "name"}', part).set(size)
    Gauge("slipway:max_model_len", "", ["model_name"], registry=registry).labels("a").set(2048)
    cache = Gauge("slipway:cache_config_info", "", ["block_size", "num_gpu_blocks"], registry=registry)
    cache.labels("16", "100").set(1)
    return generate_latest(registry).decode()


def test_the_ledger_is_read_from_metrics():
    registry = exposition(PARTS).replace('odd \\"name\\"}', "name")
    told = read(registry)
    assert told is not None
    assert told.model_dump(by_alias=True, exclude_none=True) == {
        **PARTS,
        "maxModelLen": 2048,
        "maxTokens": 1600,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        exposition({"weights": 1}),
        exposition({**PARTS, "weights": -5}),
        exposition({**PARTS, "weights": 1e30}),
        exposition({**PARTS, "weights": float("nan")}),
        "slipway:memory_bytes{" * 1000,
    ],
)
def test_anything_else_is_nothing(text):
    assert read(text) is None


class Engine:
    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0

    async def __call__(self, pod):
        self.asked += 1
        return self.answers.pop(0) if self.answers else None


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError


@pytest.fixture
def running(monkeypatch):
    monkeypatch.setattr(measured, "RETRY_SECONDS", 0.001)
    tasks, woken = [], []

    def start(*answers):
        engine = Engine(*answers)
        measurements = Measurements(woken.append, engine)
        tasks.append((measurements, asyncio.create_task(measurements.run())))
        return measurements, engine, woken

    yield start
    for measurements, _ in tasks:
        measurements.close()


async def test_an_answer_wakes_the_object_up(running):
    measurements, engine, woken = running(None, FOUND)
    assert measurements.of(KEY, "r1", {}) is None
    await until(lambda: woken)
    assert measurements.of(KEY, "r1", {}) == FOUND
    assert engine.asked == 2


async def test_silence_is_asked_a_few_times_and_another_revision_again(running):
    measurements, engine, _ = running()
    measurements.of(KEY, "r1", {})
    await until(lambda: engine.asked == ATTEMPTS)
    measurements.of(KEY, "r1", {})
    await asyncio.sleep(0.02)
    assert engine.asked == ATTEMPTS
    measurements.of(KEY, "r2", {})
    await until(lambda: engine.asked > ATTEMPTS)


async def test_what_is_gone_is_forgotten(running):
    measurements, engine, woken = running(FOUND)
    measurements.of(KEY, "r1", {})
    await until(lambda: woken)
    measurements.forget(KEY)
    assert measurements.of(KEY, "r1", None) is None
    assert engine.asked == 1


def test_a_serving_pod_of_the_newest_revision_is_asked(recorded):
    parent = recorded.parent()
    plan, pod = recorded.plan(parent), recorded.ready(parent)
    assert who_knows(recorded.world(parent, pods=[pod]), plan) == pod
    assert who_knows(recorded.world(parent, pods=[recorded.pod(parent)]), plan) is None
    assert who_knows(recorded.world(parent, pods=[recorded.leaving(pod)]), plan) is None


def test_the_status_keeps_what_it_said_of_the_same_revision(recorded):
    parent = recorded.parent()
    plan = recorded.plan(parent)
    status = build_status(Observation(recorded.world(parent), plan, recorded.now, measured=FOUND))
    assert status["plan"]["measured"] == {"weights": 7}
    parent["status"] = status
    assert told_before(parent, plan.course.target) == FOUND
    assert told_before(parent, "another") is None
    parent["status"]["plan"]["measured"] = {"weights": "many"}
    assert told_before(parent, plan.course.target) is None
