"""The whole operator against an API server over HTTP: how it starts to lead, and how it leaves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from tests.operator.api_server import ApiServer

from slipway_operator import lease
from slipway_operator.kinds import LEASE, PARENT, WATCHED, Key

OURS = LEASE.path("system", lease.LEASE_NAME)


class Cluster(ApiServer):
    """Takes writes too: the Lease's, and every apply, which it answers as the `Server` in memory does."""

    def __init__(self, server):
        super().__init__()
        self.server, self.lease, self.slow = server, None, {}
        self.written, self.began = [], asyncio.Event()

    def application(self):
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        return application

    async def answer(self, request):
        if LEASE.plural in request.path:
            self.asked.append(request)
            return await self.leases(request)
        if request.method == "PATCH":
            self.asked.append(request)
            return await self.apply(request)
        return await super().answer(request)

    async def leases(self, request):
        if request.method == "GET":
            return web.json_response(self.lease or {"message": "none"}, status=200 if self.lease else 404)
        body = await request.json()
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.lease = body
        self.written.append(f"lease of {body['spec']['holderIdentity'] or 'nobody'}")
        return web.json_response(body)

    async def apply(self, request):
        _, namespace, plural, name, *subresource = request.path.split("/namespaces")[1].split("/")
        self.began.set()
        await asyncio.sleep(self.slow.get(plural, 0.0))
        kind = next(kind for kind in WATCHED if kind.plural == plural)
        body, within = json.loads(await request.text()), subresource[0] if subresource else None
        obj = await self.server.apply(kind, Key(namespace, name), body, subresource=within)
        self.written.append("/".join([plural, *subresource]))
        return web.json_response(obj)

    async def list(self, kind):
        items = self.server.listing(kind)
        return web.json_response({"metadata": {"resourceVersion": "100"}, "items": items})


@pytest.fixture
async def cluster(server, kubeconfig):
    cluster = Cluster(server)
    runner = web.AppRunner(cluster.application(), shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig(runner.addresses[0][1])
    yield cluster
    await runner.cleanup()


@asynccontextmanager
async def started(log):
    """Run the operator as a process; at the end of the block it is told to leave, and has to do so well."""
    words = ["run", "--host", "127.0.0.1", "--health-port", "0", "--metrics-port", "0"]
    words += ["--lease-namespace", "system"]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "slipway_operator",
            *words,
            env={**os.environ, "POD_NAME": "me"},
            stderr=errors,
        )
    try:
        async with asyncio.timeout(100):
            yield
            process.terminate()
            assert await process.wait() == 0, log.read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(true):
    while not true():  # noqa: ASYNC110 - what is waited for happens in the operator
        await asyncio.sleep(0.05)


async def test_who_stands_by_asks_for_the_lease_alone_and_watches_once_it_leads(cluster, tmp_path):
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 10}
    name = {"name": lease.LEASE_NAME, "namespace": "system", "resourceVersion": "5"}
    cluster.lease = {"metadata": name, "spec": spec}
    async with started(tmp_path / "log"):
        await until(lambda: len(cluster.asked) >= 3)
        assert {(request.method, request.path) for request in cluster.asked} == {("GET", OURS)}
        spec["holderIdentity"] = ""  # the other one gave it back
        await until(cluster.watching[PARENT].is_set)
    after = [(request.method, request.path) for request in cluster.asked]
    taken = after.index(("PUT", OURS))
    assert {path for _, path in after[:taken]} == {OURS}
    assert cluster.written[0] == "lease of me"
    assert cluster.written[-1] == "lease of nobody"


async def test_on_a_signal_what_was_begun_is_finished_and_then_the_lease_is_given_back(
    cluster, server, recorded, tmp_path
):
    server.put(PARENT, recorded.parent())
    cluster.slow = {"services": 0.5, "poddisruptionbudgets": 0.5}
    async with started(tmp_path / "log"):
        await cluster.began.wait()
    written = [what for what in cluster.written if what != "lease of me"]
    assert written[-2:] == ["llmdeployments/status", "lease of nobody"]
    assert set(written) >= {"services", "poddisruptionbudgets", "networkpolicies", "deployments"}
    assert len(written) == len(set(written)) == 7
