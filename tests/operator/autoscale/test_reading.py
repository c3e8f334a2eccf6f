"""What a pod's metrics tell, and what they do not: restarts, gaps, numbers that are none."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from slipway_operator.autoscale.load import Load
from slipway_operator.kinds import Key
from slipway_operator.plan.profiles import SGLANG, SLIPWAY, VLLM
from slipway_operator.signals.reading import (
    Reading,
    first_tokens,
    load_of,
    parse,
    quantile,
    read,
    restarted,
    wanted,
)
from slipway_operator.signals.scrape import MAX_METRICS, Scraper
from slipway_operator.signals.source import Asked

NAMES = SLIPWAY.metrics


class Engine:
    """An engine's metrics under the names of a profile."""

    def __init__(self, names: Any = NAMES) -> None:
        self.registry = CollectorRegistry()
        of = {"labelnames": ["model_name"], "registry": self.registry}
        self.running = Gauge(names["num_requests_running"], "h", **of).labels("m")
        self.waiting = Gauge(names["num_requests_waiting"], "h", **of).labels("m")
        self.cache = Gauge(names["kv_cache_usage_perc"], "h", **of).labels("m")
        self.between = Histogram(names["inter_token_latency_seconds"], "h", **of).labels("m")
        self.whole = Histogram(names["e2e_request_latency_seconds"], "h", **of).labels("m")
        self.first = Histogram(names["time_to_first_token_seconds"], "h", **of).labels("m")
        Counter("other_thing", "h", registry=self.registry).inc()

    @property
    def text(self) -> str:
        return generate_latest(self.registry).decode()


def reading(text: str, at: float = 0.0, names: Any = NAMES) -> Reading | None:
    return read(parse(text, wanted(names, first=True)), names, at)


@pytest.mark.parametrize("profile", [SLIPWAY, VLLM, SGLANG], ids=lambda profile: profile.name)
def test_two_readings_tell_pace_and_throughput(profile):
    engine = Engine(profile.metrics)
    engine.running.set(3)
    engine.waiting.set(2)
    engine.cache.set(0.25)
    before = reading(engine.text, 100.0, profile.metrics)
    for _ in range(40):
        engine.between.observe(0.05)
    for _ in range(5):
        engine.whole.observe(2.0)
    after = reading(engine.text, 110.0, profile.metrics)
    load = load_of("p", before, after, serving=True)
    assert (load.running, load.waiting, load.kv_cache) == (3, 2, 0.25)
    assert load.tpot == pytest.approx(0.05)
    assert load.finishing == pytest.approx(0.5)


def test_a_counter_that_fell_tells_nothing_about_the_time_between():
    before = Reading(0.0, 1, 0, tokens=100, token_seconds=5.0, ended=9)
    after = Reading(10.0, 1, 0, tokens=10, token_seconds=0.5, ended=1)
    assert restarted(before, after)
    load = load_of("p", before, after, serving=True)
    assert load.tpot is None
    assert load.finishing is None


@pytest.mark.parametrize("number", ["NaN", "+Inf", "-1"])
def test_a_number_that_is_none_is_no_reading(number):
    text = f"slipway:num_requests_running {number}\nslipway:num_requests_waiting 0\n"
    assert reading(text) is None


@pytest.mark.parametrize(
    "text", ["", "slipway:num_requests_running 1\n", "# nothing\n", "slipway:num_requests_waiting 4\n"]
)
def test_what_is_not_there_is_not_zero(text):
    assert reading(text) is None


def test_series_of_several_ranks_add_up_and_the_fullest_cache_counts():
    text = "".join(
        f'slipway:num_requests_running{{engine="{rank}"}} {rank + 1}\n'
        f'slipway:num_requests_waiting{{engine="{rank}"}} 0\n'
        f'slipway:kv_cache_usage_perc{{engine="{rank}"}} 0.{rank + 1}\n'
        for rank in range(2)
    )
    found = reading(text)
    assert found is not None
    assert (found.running, found.cache) == (3, 0.2)


def test_the_time_to_the_first_token_is_that_of_the_window_over_all_pods():
    engines = [Engine(), Engine()]
    for engine in engines:
        for _ in range(100):
            engine.first.observe(9.0)  # long ago
    before = [reading(engine.text, 0.0) for engine in engines]
    for _ in range(90):
        engines[0].first.observe(0.04)
    for _ in range(10):
        engines[1].first.observe(0.9)
    after = [reading(engine.text, 60.0) for engine in engines]
    found = first_tokens(zip(before, after, strict=True))
    assert found == pytest.approx(0.875, abs=0.13)


def test_nobody_asked_is_zero_and_nobody_answered_is_unknown():
    engine = Engine()
    idle = reading(engine.text, 0.0)
    assert first_tokens([(idle, reading(engine.text, 60.0))]) == 0.0
    engine.waiting.set(1)
    assert first_tokens([(idle, reading(engine.text, 60.0))]) is None


def test_quantiles_are_those_of_prometheus():
    buckets = {0.1: 10.0, 0.5: 30.0, 1.0: 40.0, math.inf: 40.0}
    assert quantile(0.5, buckets) == pytest.approx(0.3)
    assert quantile(0.95, buckets) == pytest.approx(0.9)
    assert quantile(0.95, {0.1: 1.0, math.inf: 100.0}) == 0.1
    assert quantile(0.5, {0.1: 0.0, math.inf: 0.0}) is None
    assert quantile(0.5, {}) is None


@given(st.binary(max_size=300))
def test_whatever_a_pod_answers_it_is_a_reading_or_nothing(body):
    text = "slipway:num_requests_running 1\nslipway:num_requests_running" + body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        reading(text)


def pod(name: str, *, ready: bool = True) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}"},
        "status": {"podIP": "10.0.0.1", "conditions": conditions},
    }


class Pods:
    """Pods that answer what the test says."""

    def __init__(self, **answers: bytes | None) -> None:
        self.answers = answers

    async def __call__(self, pod: Any, port: int, path: str, most: int) -> bytes | None:
        return self.answers[pod["metadata"]["name"]]


def asked(*pods: dict[str, Any], **more: Any) -> Asked:
    return Asked(Key("team", "chat"), pods, NAMES, 8000, "/metrics", **more)


async def test_a_silent_pod_keeps_its_last_sample_which_grows_old():
    engine = Engine()
    engine.running.set(4)
    pods = Pods(a=engine.text.encode(), b=engine.text.encode())
    scraper = Scraper(pods)
    await scraper.look(asked(pod("a"), pod("b")), 1000.0)
    pods.answers["b"] = None
    seen = await scraper.look(asked(pod("a"), pod("b")), 1040.0)
    assert {load.name: load.at for load in seen.pods} == {"a": 1040.0, "b": 1000.0}
    assert seen.problems == ("pod b did not answer /metrics on port 8000",)
    load = Load(1040.0, 2, 2, seen.pods)
    assert (len(load.fresh), load.silent) == (1, 1)


async def test_a_pod_that_is_not_ready_may_hold_requests_and_hides_no_silent_one():
    engine = Engine()
    engine.running.set(2)
    scraper = Scraper(Pods(a=None, b=engine.text.encode()))
    seen = await scraper.look(asked(pod("a"), pod("b", ready=False)), 1000.0)
    load = Load(1000.0, 2, 1, seen.pods)
    assert load.silent == 1
    assert sum(one.requests for one in load.fresh) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"slipway:num_requests_running{ 1", "cannot be read"),
        (b"<html>", "tells no number"),
        (b"x" * MAX_METRICS, "more than"),
    ],
)
async def test_an_answer_that_cannot_be_read_is_told(answer, said):
    seen = await Scraper(Pods(a=answer)).look(asked(pod("a")), 1000.0)
    assert seen.pods == ()
    assert said in seen.problems[0]


async def test_a_query_without_a_prometheus_is_told_and_unknown():
    engine = Engine()
    seen = await Scraper(Pods(a=engine.text.encode())).look(
        asked(pod("a"), queries={"metrics[0]": "up"}), 1000.0
    )
    assert seen.values == {"metrics[0]": None}
    assert "need a Prometheus" in seen.problems[0]
