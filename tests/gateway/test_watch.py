"""List and watch against a server that expires versions, ends watches, refuses and goes away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import aiohttp
import pytest

from slipway_gateway import watch
from slipway_gateway.kube import Access
from slipway_gateway.objects import Key
from slipway_gateway.watch import Follower, Resource
from slipway_gateway.world import World

from .conftest import (
    DEPLOYMENTS,
    OK,
    Cluster,
    KubeServer,
    Pod,
    answers,
    deployment,
    endpoint_slice,
    plain,
    until,
)

RESOURCE = Resource("llmdeployments", DEPLOYMENTS)


class Following:
    """A follower that fills a world."""

    def __init__(self, kube: KubeServer, session: aiohttp.ClientSession) -> None:
        async def headers() -> dict[str, str]:
            return {"Authorization": "Bearer t"}

        self.world = World()
        access = Access(kube.url, None, headers, "default")
        sink = self.world.deployments.sink(None)
        self.follower = Follower(session, access, RESOURCE, sink, pause_first=0.02)
        self.task = asyncio.create_task(self.follower.run())

    def names(self) -> set[str]:
        return {d.key.name for d in self.world.deployments}

    async def sees(self, *names: str) -> None:
        await until(lambda: self.names() == set(names))


@pytest.fixture
async def following(kube: KubeServer) -> Any:
    await kube.put(DEPLOYMENTS, deployment("a", "first"))
    async with aiohttp.ClientSession() as session:
        following = Following(kube, session)
        await following.sees("first")
        await until(lambda: kube.watching == 1)
        yield following
        following.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following.task


def lists(kube: KubeServer) -> int:
    return sum(1 for _, query in kube.requests if "watch" not in query)


async def test_events_change_the_picture(kube: KubeServer, following: Following):
    await kube.put(DEPLOYMENTS, deployment("a", "second"))
    await following.sees("first", "second")
    await kube.put(DEPLOYMENTS, deployment("a", "second", served=["other"]))
    await until(lambda: following.world.deployments.get(Key("a", "second")).served_names == ("other",))
    await kube.delete(DEPLOYMENTS, "a", "first")
    await following.sees("second")
    assert lists(kube) == 1


async def test_a_watch_that_ends_goes_on_from_the_last_version(kube: KubeServer, following: Following):
    await kube.put(DEPLOYMENTS, deployment("a", "second"))
    await following.sees("first", "second")
    last = kube.version
    await kube.end_watches()
    await kube.put(DEPLOYMENTS, deployment("a", "third"))
    await following.sees("first", "second", "third")
    assert kube.requests[-1][1]["resourceVersion"] == str(last)
    assert lists(kube) == 1


@pytest.mark.parametrize("in_stream", [False, True])
async def test_an_expired_version_leads_to_a_new_list_that_heals_lost_deletions(
    kube: KubeServer, following: Following, in_stream: bool
):
    kube.expire_in_stream = in_stream
    await kube.put(DEPLOYMENTS, deployment("a", "second"))
    await following.sees("first", "second")
    await kube.delete_silently(DEPLOYMENTS, "a", "first")
    await kube.end_watches()
    await following.sees("second")
    assert lists(kube) == 2
    await kube.put(DEPLOYMENTS, deployment("a", "third"))
    await following.sees("second", "third")


async def test_a_list_of_several_pages_is_complete(kube: KubeServer, following: Following, monkeypatch):
    monkeypatch.setattr(watch, "PAGE", 3)
    for number in range(10):
        await kube.put(DEPLOYMENTS, deployment("a", f"m{number}"))
    kube.oldest = kube.version
    kube.expire_continue = True
    await kube.end_watches()
    await until(lambda: lists(kube) >= 6)
    await following.sees("first", *(f"m{number}" for number in range(10)))


async def test_an_api_server_that_is_away_leaves_the_picture_and_is_found_again(
    kube: KubeServer, following: Following
):
    await kube.stop()
    await asyncio.sleep(0.3)
    assert following.names() == {"first"}
    assert not following.task.done()
    await kube.put(DEPLOYMENTS, deployment("a", "second"))
    await kube.start()
    await following.sees("first", "second")


@pytest.mark.parametrize(
    ("status", "says"), [(403, "grant"), (404, "CustomResourceDefinition"), (401, "token"), (500, "500")]
)
async def test_a_refusal_is_logged_once_with_what_to_do(
    kube: KubeServer, following: Following, caplog: pytest.LogCaptureFixture, status: int, says: str
):
    caplog.set_level(logging.WARNING)
    kube.refuse_with = status
    await kube.end_watches()
    count = len(kube.requests)
    await until(lambda: len(kube.requests) >= count + 3)
    kube.refuse_with = None
    await until(lambda: kube.watching == 1)
    told = [
        record.message for record in caplog.records if "refused" in record.message or says in record.message
    ]
    assert any(says in message for message in told)
    assert sum(str(status) in message for message in told) == 1


async def test_it_pauses_longer_and_longer(kube: KubeServer, following: Following):
    kube.refuse_with = 500
    await kube.end_watches()
    count = len(kube.requests)
    await asyncio.sleep(0.5)
    assert 2 <= len(kube.requests) - count <= 8


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"type":"ADDED","object":{}}', b'{"type":"ADDED","object":null}']
)
async def test_an_event_that_cannot_be_read_ends_the_watch_and_not_the_follower(line: bytes):
    follower = Follower(None, None, RESOURCE, World().deployments.sink(None))  # type: ignore[arg-type]
    with pytest.raises(watch.ApiFailure):
        follower._take(line)


async def test_a_line_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "LINE_LIMIT", 100_000)
    pod = Pod(answers(plain(200, b"x" * 1_000_000)))
    await pod.start()
    url = f"http://127.0.0.1:{pod.port}/"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        with pytest.raises(watch.ApiFailure, match="longer than"):
            async for _ in watch.lines(response.content):
                pass
    await pod.stop()


async def test_one_namespace_of_several_is_replaced_alone():
    world = World()
    a, b = world.deployments.sink("a"), world.deployments.sink("b")
    a.put(deployment("a", "x"))
    b.put(deployment("b", "y"))
    a.replace([])
    assert {d.key for d in world.deployments} == {Key("b", "y")}


async def test_a_slice_that_moves_to_another_service_leaves_the_first():
    world = World()
    sink = world.slices.sink(None)
    obj = endpoint_slice("a", "chat", 8000)
    sink.put(obj)
    assert world.endpoints(Key("a", "chat"))
    moved = endpoint_slice("a", "other", 8000)
    moved["metadata"]["name"] = obj["metadata"]["name"]
    sink.put(moved)
    assert not world.endpoints(Key("a", "chat"))
    assert world.endpoints(Key("a", "other"))
    sink.remove(moved)
    assert not world.endpoints(Key("a", "other"))


async def test_the_gateway_serves_on_while_the_api_server_is_away(cluster: Cluster):
    await cluster.pod(OK)
    await cluster.kube.stop()
    assert (await cluster.chat())[0] == 200
    async with cluster.client.get(f"{cluster.admin}/readyz") as response:
        assert response.status == 200
    await cluster.kube.start()


async def test_it_is_not_ready_before_it_knows_anything(kube: KubeServer, start: Any):
    kube.refuse_with = 503
    cluster = await start(wait=False)
    async with cluster.client.get(f"{cluster.admin}/readyz") as response:
        assert response.status == 503
    async with cluster.client.get(f"{cluster.admin}/healthz") as response:
        assert response.status == 200
    kube.refuse_with = None
    await until(cluster.gateway.watches.synced, 10)
    async with cluster.client.get(f"{cluster.admin}/readyz") as response:
        assert response.status == 200


async def test_named_namespaces_are_watched_one_by_one(kube: KubeServer, start: Any):
    await start(namespaces=("a", "b"))
    paths = {path for path, _ in kube.requests}
    assert "/apis/slipway.dev/v1alpha1/namespaces/a/llmdeployments" in paths
    assert "/apis/discovery.k8s.io/v1/namespaces/b/endpointslices" in paths
    assert not {DEPLOYMENTS} & paths


async def test_the_ready_pods_of_its_service_are_its_peers(kube: KubeServer, start: Any):
    cluster = await start(service="front")
    peers = cluster.gateway.peers
    assert peers.count() == 1
    path = "/apis/discovery.k8s.io/v1/namespaces/slipway-system/endpointslices"
    for number, ready in enumerate((True, True, False)):
        piece = endpoint_slice("slipway-system", "front", 8080, pod=f"front-{number}", ready=ready)
        piece["metadata"]["name"] = f"front-{number}"
        await kube.put(path, piece)
    await until(lambda: peers.count() == 2)
    await kube.delete(path, "slipway-system", "front-0")
    await kube.delete(path, "slipway-system", "front-1")
    await until(lambda: peers.count() == 1)
