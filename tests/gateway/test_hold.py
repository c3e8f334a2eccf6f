"""Deployments at zero: requests wait for them, the operator hears of it, pods get what they bear."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from slipway_gateway.limits import Limits, Timeouts
from slipway_gateway.line import HoldLimits

from .conftest import (
    DEPLOYMENTS,
    OK,
    OPERATOR,
    SLICES,
    Cluster,
    KubeServer,
    Start,
    deployment,
    from_zero,
    streams,
    until,
)


@pytest.fixture
async def sleeping(start: Start) -> Cluster:
    """A gateway that the operator reads, and `team-a/chat` at zero; a pod of it carries two requests."""
    cluster = await start(holds_reader=OPERATOR)
    cluster.kube.users["good"] = OPERATOR
    await cluster.deploy(from_zero())
    return cluster


async def ask(cluster: Cluster, count: int, **more: Any) -> list[asyncio.Task[Any]]:
    """Send requests, and return once they wait."""
    room = cluster.gateway.room
    before = room.waiting()
    tasks = [asyncio.create_task(cluster.chat(stream=True, **more)) for _ in range(count)]
    await until(lambda: room.waiting() == before + count)
    return tasks


async def poll(cluster: Cluster, token: str = "good", **query: Any) -> tuple[int, Any]:
    async with cluster.client.get(
        f"{cluster.admin}/internal/v1/holds", params=query, headers={"Authorization": f"Bearer {token}"}
    ) as response:
        return response.status, await response.json()


async def test_a_request_waits_for_the_first_pod_and_is_answered(sleeping: Cluster):
    (task,) = await ask(sleeping, 1)
    await asyncio.sleep(0.1)
    await sleeping.pod(OK)
    assert (await task)[0] == 200
    record = sleeping.records()[-1]
    assert record["held_ms"] >= 100
    assert (sleeping.gateway.room.waiting(), sleeping.gateway.room.bytes) == (0, 0)


async def test_a_new_pod_gets_what_it_bears_and_the_rest_as_places_become_free(sleeping: Cluster):
    tasks = await ask(sleeping, 4)
    hold = asyncio.Event()
    pod = await sleeping.pod(streams(["x"], hold=hold))
    await until(lambda: pod.requests == 2)
    await asyncio.sleep(0.1)
    assert (pod.requests, sleeping.gateway.room.waiting()) == (2, 2)
    second = await sleeping.pod(streams(["x"]))
    assert [(await task)[0] for task in tasks[2:]] == [200, 200]
    assert (pod.requests, second.requests) == (2, 2)
    hold.set()
    assert [(await task)[0] for task in tasks[:2]] == [200, 200]


async def test_those_who_came_first_go_first(sleeping: Cluster):
    tasks = []
    for number in range(4):
        tasks += await ask(sleeping, 1, seed=number)
    pod = await sleeping.pod(streams(["x"]))
    await asyncio.gather(*tasks)
    assert sorted(pod.json(i)["seed"] for i in (0, 1)) == [0, 1]


async def test_no_more_wait_than_twice_what_a_pod_carries(sleeping: Cluster):
    tasks = await ask(sleeping, 4)
    status, body, headers = await sleeping.chat()
    assert (status, body["error"]["code"]) == (503, "hold_full")
    assert int(headers["Retry-After"]) >= 5
    await sleeping.pod(streams(["x"]))
    assert [(await task)[0] for task in tasks] == [200] * 4


async def test_the_object_says_how_many_may_wait(sleeping: Cluster):
    await sleeping.deploy(from_zero(maxHeldRequests=1))
    tasks = await ask(sleeping, 1)
    assert (await sleeping.chat())[0] == 503
    await sleeping.pod(OK)
    assert (await tasks[0])[0] == 200


async def test_bytes_that_wait_are_bounded(start: Start):
    cluster = await start(holds_reader=OPERATOR, holds=HoldLimits(max_bytes=500))
    await cluster.deploy(from_zero(sequences=100))
    tasks = await ask(cluster, 1, padding="x" * 300)
    status, body, _ = await cluster.chat(padding="x" * 300)
    assert (status, body["error"]["code"]) == (503, "hold_full")
    await cluster.pod(OK)
    assert (await tasks[0])[0] == 200
    assert cluster.gateway.room.bytes == 0


async def test_a_client_that_leaves_is_out_at_once(sleeping: Cluster):
    tasks = await ask(sleeping, 2)
    tasks[0].cancel()
    await until(lambda: sleeping.gateway.room.waiting() == 1)
    await until(lambda: sleeping.records() and sleeping.records()[-1]["status"] == 499)
    pod = await sleeping.pod(OK)
    assert (await tasks[1])[0] == 200
    assert pod.requests == 1
    assert sleeping.gateway.admission.buffered == 0


@pytest.mark.parametrize("how", ["object", "client"])
async def test_nobody_waits_longer_than_asked(sleeping: Cluster, how: str):
    headers = {}
    if how == "object":
        await sleeping.deploy(from_zero(maxHoldSeconds=1))
    else:
        headers = {"x-stainless-read-timeout": "0.7"}
    began = time.monotonic()
    body = {"model": "chat", "messages": []}
    async with sleeping.client.post(
        f"{sleeping.url}/v1/chat/completions", json=body, headers=headers
    ) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 5
        assert (await response.json())["error"]["code"] == "hold_timeout"
    assert time.monotonic() - began >= 0.6
    assert sleeping.gateway.room.waiting() == 0


async def test_what_nobody_would_wake_is_refused_at_once(start: Start):
    cluster = await start()
    await cluster.deploy(from_zero())
    status, body, headers = await cluster.chat()
    assert status == 503
    assert "--holds-reader" in body["error"]["message"]
    assert "Retry-After" in headers


@pytest.mark.parametrize("trouble", ["plain", "stalled", "refused", "suspended"])
async def test_what_is_down_for_another_reason_is_refused_at_once(sleeping: Cluster, trouble: str):
    obj = from_zero()
    if trouble == "plain":
        obj = deployment("team-a", "chat")
    elif trouble == "suspended":
        obj["spec"]["suspend"] = True
    else:
        kind, status = ("Stalled", "True") if trouble == "stalled" else ("Accepted", "False")
        obj["status"]["conditions"] = [{"type": kind, "status": status}]
    await sleeping.deploy(obj)
    status, _, headers = await sleeping.chat()
    assert status == 503
    assert "Retry-After" in headers


async def test_those_who_wait_are_told_when_it_is_in_vain(sleeping: Cluster):
    (first,) = await ask(sleeping, 1)
    parked = from_zero()
    parked["spec"]["suspend"] = True
    await sleeping.deploy(parked)
    status, body, _ = await first
    assert status == 503
    assert "parked" in body["error"]["message"]
    await sleeping.deploy(from_zero())
    (second,) = await ask(sleeping, 1)
    await sleeping.kube.delete(DEPLOYMENTS, "team-a", "chat")
    assert (await second)[0] == 404


async def test_replicas_mean_nothing_where_autoscaling_is_set(sleeping: Cluster):
    obj = from_zero("other")
    obj["spec"]["replicas"] = 0
    await sleeping.deploy(obj)
    tasks = await ask(sleeping, 1, model="other")
    await sleeping.pod(OK, of="team-a/other")
    assert (await tasks[0])[0] == 200


async def test_it_waits_again_once_the_last_pod_is_gone(sleeping: Cluster):
    await sleeping.pod(OK)
    assert (await sleeping.chat())[0] == 200
    pod = sleeping.pods[0]
    await sleeping.kube.delete(SLICES, "team-a", f"chat-{pod.port}")
    await until(lambda: not sleeping.endpoints("team-a/chat"))
    (task,) = await ask(sleeping, 1)
    await sleeping.pod(OK)
    assert (await task)[0] == 200


async def test_draining_tells_those_who_still_wait(start: Start):
    cluster = await start(holds_reader=OPERATOR, timeouts=Timeouts(drain=1.3))
    await cluster.deploy(from_zero())
    (task,) = await ask(cluster, 1)
    await cluster.gateway.drain()
    status, body, headers = await task
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "replaced" in body["error"]["message"]


async def test_draining_goes_on_waiting_as_long_as_there_is_time(start: Start):
    cluster = await start(holds_reader=OPERATOR, timeouts=Timeouts(drain=10))
    await cluster.deploy(from_zero())
    (task,) = await ask(cluster, 1)
    draining = asyncio.create_task(cluster.gateway.drain())
    await cluster.pod(OK)
    assert (await task)[0] == 200
    await draining


async def test_what_waits_counts_as_a_request_that_is_carried(start: Start):
    cluster = await start(holds_reader=OPERATOR, limits=Limits(max_requests=1))
    await cluster.deploy(from_zero())
    (task,) = await ask(cluster, 1)
    assert (await cluster.chat())[0] == 429
    await cluster.pod(OK)
    assert (await task)[0] == 200


# The operator's poll.


async def test_a_first_request_answers_the_poll_at_once(sleeping: Cluster):
    _, now = await poll(sleeping)
    assert now == {"sequence": now["sequence"], "held": []}
    waiting = asyncio.create_task(poll(sleeping, after=now["sequence"], waitSeconds=20))
    await until(lambda: sleeping.kube.reviews)
    began = time.monotonic()
    tasks = await ask(sleeping, 2)
    status, heard = await waiting
    assert status == 200
    assert time.monotonic() - began < 2
    assert heard["sequence"] > now["sequence"]
    (entry,) = heard["held"]
    assert (entry["namespace"], entry["name"]) == ("team-a", "chat")
    assert entry["requests"] >= 1
    assert 0 <= entry["oldestSeconds"] < 5
    waiting = asyncio.create_task(poll(sleeping, after=heard["sequence"], waitSeconds=20))
    await sleeping.pod(streams(["x"]))
    status, heard = await waiting
    assert (status, heard["held"]) == (200, [])
    await asyncio.gather(*tasks)


async def test_a_poll_without_news_takes_its_time(sleeping: Cluster):
    _, now = await poll(sleeping)
    began = time.monotonic()
    assert (await poll(sleeping, after=now["sequence"], waitSeconds=1))[0] == 200
    assert time.monotonic() - began >= 0.9
    # A sequence of a gateway that ran before this one.
    assert (await poll(sleeping, after=999_999, waitSeconds=30))[0] == 200


@pytest.mark.parametrize(
    "query", [{"after": "x"}, {"after": "-1"}, {"waitSeconds": "31"}, {"waitSeconds": "1.5"}]
)
async def test_a_poll_that_makes_no_sense_is_a_400(sleeping: Cluster, query: dict[str, str]):
    assert (await poll(sleeping, **query))[0] == 400


async def test_only_the_operator_may_read(sleeping: Cluster):
    sleeping.kube.users["other"] = "system:serviceaccount:team-a:default"
    assert (await poll(sleeping, "other"))[0] == 401
    assert (await poll(sleeping, "wrong"))[0] == 401
    async with sleeping.client.get(f"{sleeping.admin}/internal/v1/holds") as response:
        assert response.status == 401
    assert {tuple(r["spec"]["audiences"]) for r in sleeping.kube.reviews} == {("slipway-gateway",)}
    async with sleeping.client.get(f"{sleeping.url}/internal/v1/holds") as response:
        assert response.status == 404


async def test_a_token_is_reviewed_once_a_minute_and_counts_while_the_api_server_is_away(
    sleeping: Cluster, kube: KubeServer
):
    assert (await poll(sleeping))[0] == 200
    assert (await poll(sleeping))[0] == 200
    assert len(kube.reviews) == 1
    reviews = sleeping.gateway.reviews
    now = reviews._clock()
    reviews._clock = lambda: now + 61
    assert (await poll(sleeping))[0] == 200
    assert len(kube.reviews) == 2
    kube.refuse_with = 500
    reviews._clock = lambda: now + 500
    assert (await poll(sleeping))[0] == 200
    assert (await poll(sleeping, "new"))[0] == 503
    reviews._clock = lambda: now + 700
    assert (await poll(sleeping))[0] == 503


async def test_a_word_about_another_audience_is_no_word(sleeping: Cluster, kube: KubeServer):
    kube.knows_audiences = False
    assert (await poll(sleeping))[0] == 401
