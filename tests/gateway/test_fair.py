"""Fairness among tenants, by counts of work: no clock says who was first."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slipway_gateway.fair import FairQueue
from slipway_gateway.settings import AuthMode

from .conftest import Pod, Start, from_zero, streams, tenant_secret, until


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), min_size=1, max_size=80))
def test_every_tenant_that_waits_gets_its_share_of_the_work(asked: list[tuple[str, int]]):
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for tenant, cost in asked:
        queue.push(tenant, (tenant, cost))
    served: Counter[str] = Counter()
    while len(queue):
        waiting = {tenant for tenant, _ in queue}
        item = queue.pop()
        assert item is not None
        tenant, cost = item
        # Nobody who still waits was served more than a request's cost less than whoever was just chosen.
        assert all(served[tenant] <= served[other] for other in waiting)
        queue.charge(tenant, cost)
        served[tenant] += cost
    assert sum(served.values()) == sum(cost for _, cost in asked)


def test_within_a_tenant_the_oldest_goes_first():
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.push("a", number)
    assert [queue.pop() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_who_was_away_saves_nothing_up():
    queue: FairQueue[str] = FairQueue()
    for number in range(200):
        queue.push("flood", f"f{number}")
    for _ in range(100):
        assert queue.pop() is not None
        queue.charge("flood", 10)
    for number in range(20):
        queue.push("late", f"l{number}")
    first = []
    for _ in range(20):
        item = queue.pop()
        assert item is not None
        first.append(item[0])
        queue.charge("flood" if item[0] == "f" else "late", 10)
    assert first.count("l") == 10


def test_an_estimate_is_settled():
    queue: FairQueue[str] = FairQueue()
    for tenant in "ab":
        for number in range(4):
            queue.push(tenant, f"{tenant}{number}")
    assert queue.pop() == "a0"
    queue.charge("a", 100)
    assert queue.pop() == "b0"
    queue.charge("b", 10)
    queue.charge("a", -95)  # it stopped early
    assert queue.pop() == "a1"


async def test_a_flood_waits_behind_itself(start: Start):
    """A newcomer is let in at once, and while it asks one by one never waits for more than one answer."""
    cluster = await start(auth=AuthMode.TENANTS)
    await cluster.deploy(from_zero(sequences=8))
    await cluster.tenant(tenant_secret("flood", "*", "k-flood"))
    await cluster.tenant(tenant_secret("light", "*", "k-light"))
    most, now, respond = 0, 0, streams(["x"], pause=0.02)

    async def counted(pod: Pod, reader: Any, writer: Any, body: bytes) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        try:
            await respond(pod, reader, writer, body)
        finally:
            now -= 1

    pod = await cluster.pod(counted)
    assert (await cluster.chat(key="k-light", stream=True))[0] == 200  # it is about
    flood = [asyncio.create_task(cluster.chat(key="k-flood", stream=True)) for _ in range(90)]
    await until(lambda: cluster.gateway.room.waiting() > 75)
    for _ in range(5):
        before = pod.requests
        assert (await cluster.chat(key="k-light", stream=True, seed=1))[0] == 200
        assert cluster.gateway.room.waiting() > 0
        # A place was kept for it: of the flood's dozens ahead, next to none reached the pod before it.
        (place,) = [n for n, body in enumerate(pod.bodies[before:]) if b'"seed"' in body]
        assert place <= 8
    assert [status for status, _, _ in await asyncio.gather(*flood)] == [200] * 90
    assert most <= 8


async def test_under_a_flood_anothers_first_token_comes_within_half_as_long_again(start: Start):
    """Ten times what the pod bears, from one tenant; the pod's own steps grow with what runs in it."""
    cluster = await start(auth=AuthMode.TENANTS)
    await cluster.deploy(from_zero(sequences=8))
    for name in ("flood", "light"):
        await cluster.tenant(tenant_secret(name, "*", f"k-{name}"))
    running, most = 0, 0

    async def engine(pod: Pod, reader: Any, writer: Any, body: bytes) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.1 + 0.002 * running)
            await streams(["a", "b", "c", "d"], pause=0.05)(pod, reader, writer, body)
        finally:
            running -= 1

    await cluster.pod(engine)

    async def first_token() -> float:
        began = time.monotonic()
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with cluster.client.post(
            f"{cluster.url}/v1/chat/completions", json=body, headers={"Authorization": "Bearer k-light"}
        ) as response:
            assert response.status == 200
            await response.content.readany()
            took = time.monotonic() - began
            await response.read()
        return took

    alone = [await first_token() for _ in range(9)]
    flood = [asyncio.create_task(cluster.chat(key="k-flood", stream=True)) for _ in range(80)]
    await until(lambda: cluster.gateway.room.waiting() > 60)
    among = [await first_token() for _ in range(9)]
    assert cluster.gateway.room.waiting() > 0  # the flood was there to the end
    assert sorted(among)[4] < 1.5 * sorted(alone)[4], (alone, among)
    assert [status for status, _, _ in await asyncio.gather(*flood)] == [200] * 80
    assert most == 8


async def test_alone_a_tenant_gets_every_place(start: Start):
    cluster = await start(auth=AuthMode.TENANTS)
    await cluster.deploy(from_zero(sequences=8))
    await cluster.tenant(tenant_secret("only", "*", "k"))
    hold = asyncio.Event()
    pod = await cluster.pod(streams(["x"], hold=hold))
    tasks = [asyncio.create_task(cluster.chat(key="k", stream=True)) for _ in range(12)]
    await until(lambda: pod.requests == 8)
    await asyncio.sleep(0.05)
    assert (pod.requests, cluster.gateway.room.waiting()) == (8, 4)
    hold.set()
    await asyncio.gather(*tasks)


async def test_a_flood_fills_the_hold_and_others_still_get_in(start: Start):
    cluster = await start(auth=AuthMode.TENANTS, holds_reader="operator")
    await cluster.deploy(from_zero(sequences=2))
    await cluster.tenant(tenant_secret("flood", "*", "k-flood"))
    await cluster.tenant(tenant_secret("light", "*", "k-light"))
    flood = [asyncio.create_task(cluster.chat(key="k-flood", stream=True)) for _ in range(4)]
    await until(lambda: cluster.gateway.room.waiting() == 4)
    light = [asyncio.create_task(cluster.chat(key="k-light", stream=True)) for _ in range(2)]
    await until(lambda: sum(task.done() for task in flood) == 2)
    assert (await cluster.chat(key="k-light"))[0] == 503  # as many as the other has, and no more
    await cluster.pod(streams(["x"]))
    assert [(await task)[0] for task in light] == [200, 200]
    assert sorted([(await task)[0] for task in flood]) == [200, 200, 503, 503]
