"""Which pod: least outstanding, ejection, its doubling, the probe, failing open; the budget for retries."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from slipway_gateway.balance import FAILURES_TO_EJECT, Balancer
from slipway_gateway.objects import Endpoint
from slipway_gateway.retry import MAX_RETRIES, RetryBudget, may_retry

PODS = tuple(Endpoint(f"http://10.0.0.{n}:8000", f"p{n}", f"u{n}") for n in range(4))


def balancer() -> Balancer:
    return Balancer(random.Random(1))


def eject(balance: Balancer, pod: Endpoint, now: float) -> bool:
    return [balance.failed(pod, now) for _ in range(FAILURES_TO_EJECT)][-1]


def test_the_pod_with_the_least_outstanding_is_picked():
    balance = balancer()
    for pod, count in zip(PODS, (2, 1, 3, 2), strict=True):
        for _ in range(count):
            balance.started(pod)
    assert balance.pick(PODS, (), 0) is PODS[1]
    balance.started(PODS[1])
    balance.started(PODS[1])
    assert balance.pick(PODS, (), 0) in (PODS[0], PODS[3])


def test_ties_are_spread():
    balance = balancer()
    assert {balance.pick(PODS, (), 0) for _ in range(100)} == set(PODS)


def test_a_tried_pod_is_not_picked_again():
    balance = balancer()
    assert balance.pick(PODS[:2], PODS[:1], 0) is PODS[1]
    assert balance.pick(PODS[:2], PODS[:2], 0) is None
    assert balance.pick((), (), 0) is None


def test_five_failures_in_a_row_eject_for_ten_seconds():
    balance = balancer()
    balance.pick(PODS, (), 0)
    assert [balance.failed(PODS[0], 0) for _ in range(5)] == [False] * 4 + [True]
    assert PODS[0] not in {balance.pick(PODS, (), 9.9) for _ in range(100)}
    assert PODS[0] in {balance.pick(PODS, (), 10.0) for _ in range(100)}


def test_a_success_between_failures_starts_the_count_again():
    balance = balancer()
    balance.pick(PODS, (), 0)
    for _ in range(3):
        for _ in range(4):
            assert not balance.failed(PODS[0], 0)
        balance.succeeded(PODS[0])


def test_ejection_doubles_up_to_two_minutes():
    balance = balancer()
    balance.pick(PODS, (), 0)
    now, lengths = 0.0, []
    eject(balance, PODS[0], now)
    for _ in range(6):
        start = now
        while balance.ejected(now):
            now += 1
        lengths.append(now - start)
        assert balance.failed(PODS[0], now)
    assert lengths == [10, 20, 40, 80, 120, 120]


def test_one_probe_at_a_time_after_the_ejection():
    balance = balancer()
    balance.pick(PODS, (), 0)
    eject(balance, PODS[0], 0)
    balance.started(PODS[0])
    assert PODS[0] not in {balance.pick(PODS, (), 11) for _ in range(100)}
    balance.succeeded(PODS[0])
    balance.ended(PODS[0])
    assert PODS[0] in {balance.pick(PODS, (), 11) for _ in range(100)}


def test_a_probe_that_ends_without_a_verdict_frees_the_next_one():
    balance = balancer()
    balance.pick(PODS, (), 0)
    eject(balance, PODS[0], 0)
    balance.started(PODS[0])
    balance.ended(PODS[0])
    assert PODS[0] in {balance.pick(PODS, (), 11) for _ in range(100)}


def test_at_most_half_of_the_pods_are_ejected():
    balance = balancer()
    balance.pick(PODS, (), 0)
    assert [eject(balance, pod, 0) for pod in PODS] == [True, True, False, False]
    alone = balancer()
    alone.pick(PODS[:1], (), 0)
    assert not eject(alone, PODS[0], 0)


def test_when_only_ejected_pods_are_left_they_are_used():
    balance = balancer()
    balance.pick(PODS[:2], (), 0)
    assert eject(balance, PODS[0], 0)
    assert balance.pick(PODS[:2], PODS[1:2], 1) is PODS[0]


def test_a_pod_that_is_gone_is_forgotten_once_its_streams_ended():
    balance = balancer()
    balance.pick(PODS, (), 0)
    balance.started(PODS[0])
    balance.pick(PODS[1:], (), 0)
    assert balance.outstanding() == 1
    balance.ended(PODS[0])
    balance.pick(PODS[2:], (), 0)
    assert balance.outstanding() == 0


@given(st.lists(st.tuples(st.sampled_from(["start", "ok", "fail", "tick"]), st.integers(0, 3)), max_size=200))
def test_there_is_always_a_pod_and_never_more_than_half_are_out(steps):
    balance, now, running = balancer(), 0.0, []
    for what, number in steps:
        pod = balance.pick(PODS, (), now)
        assert pod in PODS
        if what == "start":
            balance.started(pod)
            running.append(pod)
        elif what == "tick":
            now += 7
        elif running:
            done = running.pop(number % len(running))
            balance.succeeded(done) if what == "ok" else balance.failed(done, now)
            balance.ended(done)
        assert balance.outstanding() == len(running)
        assert balance.ejected(now) <= len(PODS) // 2


def test_retries_stay_below_a_tenth_of_the_traffic():
    budget, retried = RetryBudget(), 0
    for _ in range(10_000):
        budget.earn()
        retried += may_retry(0, budget)
    assert 1000 <= retried <= 1011


def test_a_request_is_retried_twice_at_most():
    budget = RetryBudget()
    assert may_retry(MAX_RETRIES - 1, budget)
    assert not may_retry(MAX_RETRIES, budget)
