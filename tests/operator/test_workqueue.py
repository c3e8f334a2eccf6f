"""The queue: nothing is lost, nothing runs twice at the same time, failures back off."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_operator.workqueue import RETRIES_PER_SECOND, RETRY_BURST, WorkQueue


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


async def drain(queue):
    """Take everything that is ready, without finishing any of it."""
    taken = []
    while True:
        try:
            taken.append(await asyncio.wait_for(queue.get(), 0.01))
        except TimeoutError:
            return taken


async def test_a_key_is_handed_out_once_however_often_it_is_added():
    queue = WorkQueue()
    for _ in range(5):
        queue.add("a")
    assert len(queue) == 1
    assert await drain(queue) == ["a"]


async def test_news_during_the_work_queue_the_key_once_more():
    queue = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert await drain(queue) == []  # nobody else works on it meanwhile
    queue.done("a")
    assert await drain(queue) == ["a"]
    queue.done("a")
    assert await drain(queue) == []


async def test_the_delay_of_failures_doubles_up_to_a_limit_and_starts_over():
    queue = WorkQueue(base_delay=1, max_delay=10, jitter=lambda: 1.0)
    delays = []
    for _ in range(6):
        delays.append(queue.add_failed("a"))
        queue.add("a")
        await queue.get()
        queue.done("a")
    assert delays == [1, 2, 4, 8, 10, 10]
    queue.forget("a")
    assert queue.add_failed("a") == 1
    assert queue.add_failed("b", at_least=30) == 30


@given(jitter=st.floats(0, 1), failures=st.integers(0, 2000))
def test_a_delay_is_never_short_and_never_beyond_the_limit(jitter, failures):
    async def run():
        queue = WorkQueue(base_delay=1, max_delay=60, jitter=lambda: jitter)
        queue._failures["a"] = failures
        assert min(30, 2 ** min(failures, 9) / 2) <= queue.add_failed("a") <= 60
        queue.close()

    asyncio.run(run())


async def test_what_fails_together_comes_back_at_a_rate():
    queue = WorkQueue(clock=Clock(), base_delay=0.001)
    queue._clock.now = 1000.0
    delays = [queue.add_failed(number) for number in range(RETRY_BURST + 200)]
    assert max(delays[: RETRY_BURST - 1]) <= 0.001
    assert delays[-1] == pytest.approx(200 / RETRIES_PER_SECOND, rel=0.01)
    queue._clock.now += 60
    assert queue.add_failed("later") <= 0.001
    queue.close()


async def test_the_earliest_time_wins_and_now_beats_all():
    queue = WorkQueue()
    queue.add_after("a", 60)
    queue.add_after("a", 0.02)
    queue.add_after("a", 60)
    assert await drain(queue) == []
    await asyncio.sleep(0.03)
    assert await drain(queue) == ["a"]
    queue.add_after("b", 60)
    queue.add("b")
    assert queue.delayed == 0
    assert await drain(queue) == ["b"]


async def test_what_goes_first_is_handed_out_first_and_the_rest_is_not_forgotten():
    queue = WorkQueue()
    for key in "abc":
        queue.add(key)
    for key in "1234567":
        queue.add(key, first=True)
    queue.add("c", first=True)  # put forward
    queue.add("1")  # which takes nothing from it
    assert "".join(await drain(queue)) == "123a456b7c"


async def test_a_key_that_is_put_forward_during_the_work_goes_first_after_it():
    queue = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("b")
    queue.add("a", first=True)
    queue.done("a")
    assert await drain(queue) == ["a", "b"]


async def test_closing_wakes_everybody_and_hands_out_nothing():
    queue = WorkQueue()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.add_after("a", 0.01)
    queue.close()
    assert await asyncio.gather(*waiting) == [None, None, None]
    queue.add("b")
    queue.done("c")
    assert await queue.get() is None


async def test_stuck_counts_only_while_there_is_work_and_none_ends():
    clock = Clock()
    queue = WorkQueue(clock=clock)
    clock.now = 1000
    assert queue.stuck_for() == 0
    queue.add("a")
    assert queue.stuck_for() == 0
    await queue.get()
    clock.now = 1100
    assert queue.stuck_for() == 100
    queue.add("b")
    assert queue.stuck_for() == 100
    queue.done("a")
    assert queue.stuck_for() == 0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "first", "fail", "after"])), max_size=40
    )
)
def test_every_wish_is_followed_by_a_complete_run(wishes):
    """Whatever is asked for while workers run: each key runs alone, and once after its last wish."""

    async def run():
        queue = WorkQueue(base_delay=0.001, max_delay=0.002)
        running, ran_after = set(), dict.fromkeys("abc", 0)
        asked = dict.fromkeys("abc", 0)

        async def worker():
            while (key := await queue.get()) is not None:
                assert key not in running
                running.add(key)
                ran_after[key] = asked[key]
                await asyncio.sleep(0)
                running.discard(key)
                queue.done(key)

        workers = [asyncio.create_task(worker()) for _ in range(3)]
        for key, how in wishes:
            asked[key] += 1
            if how in ("add", "first"):
                queue.add(key, first=how == "first")
            elif how == "fail":
                queue.add_failed(key)
            else:
                queue.add_after(key, 0.001)
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while len(queue) or queue.delayed or queue.processing:  # noqa: ASYNC110 - it ends by itself
                await asyncio.sleep(0.001)
        assert ran_after == asked
        queue.close()
        await asyncio.gather(*workers)

    asyncio.run(run())
