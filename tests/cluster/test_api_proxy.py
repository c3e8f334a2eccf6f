"""The proxy that fails on purpose: what passes, what is lost, and what the API server has heard of."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from e2e.api_proxy import Cut, Expired, Lost, Proxy, Refused, Silence, request_of

PODS = "/api/v1/namespaces/team/pods"


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (PODS, {}, ("pods", "team", "", False)),
        ("/api/v1/pods", {"watch": "true"}, ("pods", "", "", True)),
        ("/api/v1/namespaces/team", {}, ("namespaces", "", "team", False)),
        (
            "/apis/slipway.dev/v1alpha1/namespaces/team/llmdeployments/chat/status",
            {},
            ("llmdeployments/status", "team", "chat", False),
        ),
        ("/apis/slipway.dev/v1alpha1/llmclasses/a", {}, ("llmclasses", "", "a", False)),
        ("/version", {}, ("", "", "", False)),
    ],
)
def test_a_path_is_understood(path, query, expected):
    found = request_of("GET", path, query)
    assert (found.resource, found.namespace, found.name, found.watches) == expected


class Server:
    def __init__(self):
        self.heard = []

    async def answer(self, request):
        self.heard.append((request.method, request.headers.get("Impersonate-User"), await request.text()))
        if "watch" not in request.query:
            return web.json_response({"said": len(self.heard)}, status=201, headers={"Date": "never"})
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"one\n")
        await asyncio.sleep(60)
        return stream


@pytest.fixture
async def server(tmp_path):
    server = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@pytest.fixture
def kubeconfig(server, tmp_path):
    path = tmp_path / "real"
    cluster = {"server": f"http://127.0.0.1:{server.port}"}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "a",
                "clusters": [{"name": "a", "cluster": cluster}],
                "users": [{"name": "a", "user": {}}],
                "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            }
        )
    )
    return str(path)


async def test_it_passes_on_and_fails_as_it_is_told(server, kubeconfig, tmp_path):
    with Proxy(kubeconfig, account="system:serviceaccount:a:b") as proxy:
        written = json.loads(proxy.write_kubeconfig(tmp_path / "config").read_text())
        async with aiohttp.ClientSession(written["clusters"][0]["cluster"]["server"]) as session:
            async with session.patch(PODS, data="x", headers={"Authorization": "Bearer y"}) as answer:
                assert (answer.status, await answer.json()) == (201, {"said": 1})
                assert answer.headers["Date"] == "never"
            assert server.heard == [("PATCH", "system:serviceaccount:a:b", "x")]
            assert [request.resource for request in proxy.writes] == ["pods"]

            proxy.rule = lambda request: Refused(429, retry_after=3)
            async with session.get(PODS) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
            proxy.rule = lambda request: Cut()
            with pytest.raises(aiohttp.ClientError):
                await session.post(PODS)
            proxy.rule = lambda request: Silence()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await session.post(PODS)
            assert len(server.heard) == 1

            told = []
            proxy.rule = lambda request: Lost(lambda: told.append(len(server.heard)))
            with pytest.raises(aiohttp.ClientError):
                await session.post(PODS)
            assert told == [2], "the server has done it by then"
            assert len(proxy.writes) == 2
            assert proxy.faults == 4

            proxy.rule = lambda request: Cut(after=0.2)
            async with session.get(PODS, params={"watch": "1"}) as answer:
                assert await answer.content.readline() == b"one\n"
                with pytest.raises(aiohttp.ClientError):
                    await answer.content.readline()
            proxy.rule = lambda request: Expired()
            async with session.get(PODS, params={"watch": "1"}) as answer:
                assert json.loads(await answer.text())["object"]["code"] == 410
