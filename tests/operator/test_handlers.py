"""The real kopf against an HTTP server that lists and watches as an API server does."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiohttp import web
from tests.operator.api_server import ApiServer

from slipway_operator.freshness import Freshness
from slipway_operator.handlers import watch
from slipway_operator.intake import Intake
from slipway_operator.kinds import DEPLOYMENT, OWNED, OWNED_SELECTOR, PARENT, POD, WATCHED, Key
from slipway_operator.kube import connect
from slipway_operator.metrics import Metrics
from slipway_operator.relist import Relister
from slipway_operator.store import Store
from slipway_operator.workqueue import WorkQueue

KEY = Key("team", "chat")


class Watching:
    """An intake with the real kopf before it."""

    def __init__(self, api):
        self.api, self.store, self.queue = api, Store(), WorkQueue()
        self.freshness, self.metrics, self.now = Freshness(60), Metrics(), 0.0
        self.intake = Intake(
            self.store, self.queue, WorkQueue(), self.freshness, self.metrics, clock=lambda: self.now
        )

    async def next(self):
        async with asyncio.timeout(30):
            key = await self.queue.get()
        self.queue.done(key)
        return key


@pytest.fixture
async def api():
    return ApiServer()


@pytest.fixture
async def watching(api, kubeconfig):
    runner = web.AppRunner(api.application(), shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig(runner.addresses[0][1])
    api.put(PARENT)
    watching, started = Watching(api), asyncio.Event()
    task = asyncio.create_task(watch(watching.intake, (), started.set))
    async with asyncio.timeout(60):
        await started.wait()
        for kind in WATCHED:
            await api.watching[kind].wait()
    yield watching
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await runner.cleanup()


async def test_what_exists_and_what_happens_reaches_the_queue(watching, api):
    assert await watching.next() == KEY
    assert watching.store.get(PARENT, KEY) is not None
    for kind in (DEPLOYMENT, POD):
        api.put(kind, event="ADDED")
        assert await watching.next() == KEY
        api.put(kind, event="DELETED")
        assert await watching.next() == KEY
        assert watching.store.get(kind, KEY) is None


async def test_kopf_asks_for_no_more_than_it_needs_and_writes_nothing(watching, api):
    await watching.next()
    assert {request.method for request in api.asked} == {"GET"}
    listed = {
        request.path for request in api.asked if "labelSelector" in request.query or "limit" in request.query
    }
    assert listed == {kind.path(None) for kind in WATCHED}
    asked = {request.path for request in api.asked}
    assert not any("namespaces" in path or "customresourcedefinitions" in path for path in asked)
    assert not any("kopf" in path or "zalando" in path for path in asked)
    for request in api.asked:
        if request.path in {kind.path(None) for kind in OWNED}:
            assert request.query["labelSelector"] == OWNED_SELECTOR


async def test_a_cut_watch_is_opened_again_and_nothing_is_lost(watching, api):
    await watching.next()
    api.cut(DEPLOYMENT)
    api.put(DEPLOYMENT, event="ADDED", spec=1)
    async with asyncio.timeout(60):
        await api.watching[DEPLOYMENT].wait()
    api.put(DEPLOYMENT, spec=2)
    await watching.next()
    assert watching.store.get(DEPLOYMENT, KEY)["spec"] == 2


async def test_a_watch_that_is_open_and_dead_is_noticed(watching, api):
    """The connection stands, the server answers lists, but the stream says nothing any more."""
    await watching.next()
    async with connect() as kube:
        relister = Relister(kube, watching.intake, [None], 300)
        api.put(POD, event="ADDED")
        assert await watching.next() == KEY
        api.deaf.add(POD)
        api.put(POD, spec={"nodeName": "n"})
        assert await relister.relist(POD)
        assert await watching.next() == KEY  # the list healed the store
        assert watching.freshness.dead() == []
        watching.now = 61
        assert watching.intake.suspects(POD)
        assert await relister.relist(POD)
        assert "the watch of pods has not delivered team/chat" in watching.freshness.dead()[0]
        assert not watching.intake.suspects(DEPLOYMENT)
