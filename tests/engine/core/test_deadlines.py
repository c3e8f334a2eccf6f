"""Deadlines end what waits and what runs, and a full queue says when to come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from slipway_engine.core.drain import LONGEST, SHORTEST, Drain
from slipway_engine.errors import RequestError

Drive = Callable[..., Any]
PROMPT = (5, 9, 2, 77, 31)


def test_a_passed_deadline_ends_running_and_waiting_requests(drive: Drive) -> None:
    driver = drive(max_num_seqs=2)
    soon = time.monotonic() + 0.2
    running = driver.send(PROMPT, max_tokens=200, deadline=soon, n=2, temperature=1.0)
    stays = driver.send(PROMPT, max_tokens=3, deadline=soon + 1000)
    waits = driver.send(PROMPT, max_tokens=3, deadline=soon)
    driver.step()
    time.sleep(max(0.0, soon - time.monotonic()))
    driver.step()
    assert driver.core.stats().num_requests_running == 1
    results = driver.finish()
    for name in (running, waits):
        last = results[name].outputs[-1]
        assert (last.finish_reason, last.error_code, last.error_status) == ("error", "deadline_exceeded", 504)
        assert "deadline passed after 0." in (last.error or "")
    assert results[stays].finish_reason == "length"


def test_a_deadline_that_is_kept_is_forgotten(drive: Drive) -> None:
    driver = drive()
    soon = time.monotonic() + 0.3
    assert driver.one(PROMPT, max_tokens=2, name="same", deadline=soon).finish_reason == "length"
    time.sleep(max(0.0, soon - time.monotonic()))
    assert driver.one(PROMPT, max_tokens=2, name="same").finish_reason == "length"


def test_a_full_queue_says_when_to_come_back(drive: Drive) -> None:
    driver = drive(max_num_seqs=1, max_waiting=1)
    driver.send(PROMPT)
    with pytest.raises(RequestError) as refused:
        driver.send(PROMPT)
    assert refused.value.retry_after == SHORTEST
    driver.finish()


@pytest.mark.parametrize(
    ("every", "waiting", "expected"), [(0.01, 40, 1), (2.0, 40, 20), (2.0, 2, 2), (60.0, 400, LONGEST)]
)
def test_the_wait_follows_the_rate_at_which_requests_end(every: float, waiting: int, expected: int) -> None:
    drain, now = Drain(), 100.0
    for _ in range(200):
        drain.left(now)
        now += every
    assert drain.retry_after(waiting, now) == expected


def test_a_queue_that_stands_still_asks_for_more_patience(drive: Drive) -> None:
    drain = Drain()
    drain.left(0.0)
    assert drain.retry_after(8, 10.0) < drain.retry_after(8, 40.0)
