"""The real client against an HTTP server that answers as an API server does."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
from aiohttp import web

from slipway_operator.errors import (
    Conflict,
    Denied,
    Invalid,
    LeadershipLost,
    Missing,
    NotPermitted,
    Retryable,
    Terminal,
)
from slipway_operator.kinds import DEPLOYMENT, LEASE, PARENT, POD, SERVICE, Key, Kind
from slipway_operator.kube import connect

KEY = Key("team", "chat")


class Wire:
    """What was asked, and what is to be answered."""

    def __init__(self):
        self.requests, self.answers, self.counted, self.delay = [], [], [], 0

    async def answer(self, request):
        await asyncio.sleep(self.delay)
        body = await request.text()
        self.requests.append((request, json.loads(body) if body else None))
        status, content, headers = self.answers.pop(0)
        return web.Response(status=status, text=content, headers=headers, content_type="application/json")

    def will(self, status, content=None, headers=None):
        text = content if isinstance(content, str) else json.dumps(content or {"metadata": {}})
        self.answers.append((status, text, headers))


@pytest.fixture
async def wire(kubeconfig):
    wire = Wire()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", wire.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    wire.port = runner.addresses[0][1]
    kubeconfig(wire.port)
    yield wire
    await runner.cleanup()


@pytest.fixture
async def kube(wire):
    async with connect(lambda *labels: wire.counted.append(labels)) as kube:
        yield kube


async def test_an_apply_is_a_server_side_apply_as_one_manager(kube, wire):
    wire.will(200, {"metadata": {"name": "chat"}})
    assert await kube.apply(DEPLOYMENT, KEY, {"a": "é"}) == {"metadata": {"name": "chat"}}
    request, body = wire.requests[0]
    assert (request.method, request.path) == ("PATCH", "/apis/apps/v1/namespaces/team/deployments/chat")
    assert dict(request.query) == {"fieldManager": "slipway-operator", "force": "true"}
    assert request.headers["Content-Type"] == "application/apply-patch+yaml; charset=utf-8"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["User-Agent"] == "slipway-operator"
    assert body == {"a": "é"}
    wire.will(200)
    await kube.apply(PARENT, KEY, {}, subresource="status", force=False)
    request, _ = wire.requests[1]
    assert request.path == "/apis/slipway.dev/v1alpha1/namespaces/team/llmdeployments/chat/status"
    assert request.query["force"] == "false"
    assert wire.counted == [("apply", "deployments", "200"), ("apply", "llmdeployments/status", "200")]


async def test_a_list_is_read_page_by_page_and_typed(kube, wire):
    wire.will(
        200,
        {"metadata": {"continue": "more", "resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]},
    )
    wire.will(200, {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]})
    items, version = await kube.list(POD, None, labels="a=b")
    assert [item["metadata"]["name"] for item in items] == ["a", "b"]
    assert version == 7
    assert items[0]["kind"] == "Pod"
    assert items[0]["apiVersion"] == "v1"
    assert wire.requests[0][0].path == "/api/v1/pods"
    assert dict(wire.requests[0][0].query) == {"labelSelector": "a=b", "limit": "500"}
    assert wire.requests[1][0].query["continue"] == "more"


async def test_what_is_not_there_is_none(kube, wire):
    wire.will(404, {"message": "not found"})
    assert await kube.get(DEPLOYMENT, KEY) is None


async def test_the_lease_and_the_events(kube, wire):
    wire.will(201)
    await kube.create_lease(KEY, {"metadata": {}})
    wire.will(200)
    await kube.replace_lease(KEY, {"metadata": {}})
    wire.will(200, {"metadata": {}, "items": [{"reason": "R"}]})
    assert await kube.pod_events("team", "uid-1", "R") == [{"reason": "R"}]
    assert [(r.method, r.path) for r, _ in wire.requests] == [
        ("POST", LEASE.path("team")),
        ("PUT", LEASE.path("team", "chat")),
        ("GET", "/api/v1/namespaces/team/events"),
    ]
    assert wire.requests[2][0].query["fieldSelector"] == "involvedObject.uid=uid-1,reason=R"


RBAC = 'deployments.apps "chat" is forbidden: User "system:serviceaccount:a:b" cannot patch resource "d"'
QUOTA = 'deployments.apps "chat" is forbidden: exceeded quota: q, requested: count/deployments.apps=1'
WEBHOOK = 'admission webhook "p.example.com" denied the request: no'
POLICY = "deployments.apps \"chat\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no"


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "bad", Terminal),
        (401, "who are you", NotPermitted),
        (403, RBAC, NotPermitted),
        (403, QUOTA, Denied),
        (400, WEBHOOK, Denied),
        (422, POLICY, Denied),
        (404, "no such namespace", Missing),
        (409, "changed", Conflict),
        (422, "spec.x: Invalid value", Invalid),
        (429, "slow down", Retryable),
        (500, "failed to create typed patch object (a/b): .spec.x: field not declared in schema", Invalid),
        (500, "oops", Retryable),
        (500, 'Internal error occurred: failed calling webhook "a.b": connection refused', Denied),
        (503, "starting", Retryable),
        (504, "late", Retryable),
    ],
)
async def test_every_answer_becomes_one_of_our_errors(kube, wire, status, message, expected):
    wire.will(status, {"kind": "Status", "message": message})
    with pytest.raises(expected, match=r".*") as caught:
        await kube.apply(DEPLOYMENT, KEY, {})
    assert type(caught.value) is expected
    assert message in str(caught.value)
    assert wire.counted == [("apply", "deployments", str(status))]


async def test_the_server_may_ask_for_patience(kube, wire):
    wire.will(429, {"message": "slow down"}, {"Retry-After": "7"})
    with pytest.raises(Retryable) as caught:
        await kube.apply(DEPLOYMENT, KEY, {})
    assert caught.value.after == 7


@pytest.mark.parametrize("answer", ["not json", "[]"])
async def test_an_error_page_that_is_no_status_is_quoted(kube, wire, answer):
    wire.will(502, answer)
    with pytest.raises(Retryable):
        await kube.apply(DEPLOYMENT, KEY, {})


async def test_a_garbled_answer_and_a_refused_connection_are_tried_again(kube, wire):
    wire.will(200, "{broken")
    with pytest.raises(Retryable, match="apply deployments team/chat"):
        await kube.apply(DEPLOYMENT, KEY, {})
    assert wire.counted == [("apply", "deployments", "error")]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening
        kube._dynamic.client.configuration.host = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(Retryable, match="ClientConnectorError"):
            await kube.get(DEPLOYMENT, KEY)


@pytest.mark.parametrize("excepted", ["", "127.0.0.1,.example.com"])
async def test_the_environments_proxy_is_used_where_no_exception_is_made(
    wire, kubeconfig, monkeypatch, excepted
):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{wire.port}")
    monkeypatch.setenv("NO_PROXY", excepted)
    wire.will(200)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        kubeconfig(nobody.getsockname()[1])
        async with connect() as kube:
            if excepted:
                with pytest.raises(Retryable, match="ClientConnectorError"):
                    await kube.get(DEPLOYMENT, KEY)
                return
            await kube.get(DEPLOYMENT, KEY)
        assert wire.requests[0][0].url.port == nobody.getsockname()[1]


async def test_a_password_file_of_the_machine_changes_no_request(kube, wire, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wire.will(200)
    await kube.get(DEPLOYMENT, KEY)
    assert wire.requests[0][0].headers["Authorization"] == "Bearer secret"


async def test_a_server_that_never_answers_is_given_up(kube, wire, monkeypatch):
    monkeypatch.setattr("slipway_operator.kube.REQUEST_TIMEOUT", 0.05)
    wire.delay = 1
    wire.will(200)
    with pytest.raises(Retryable, match="TimeoutError"):
        await kube.get(DEPLOYMENT, KEY)


async def test_the_time_is_the_api_servers_whatever_this_machine_thinks(kube, wire):
    assert kube.now() == pytest.approx(time.time(), abs=5)
    wire.will(200, headers={"Date": "Fri, 02 Jan 2026 03:04:05 GMT"})
    await kube.get(DEPLOYMENT, KEY)
    assert kube.now() == pytest.approx(1767323045, abs=5)
    wire.will(200, headers={"Date": "Fri, 02 Jan 2032 03:04:05 GMT"})
    await kube.get(DEPLOYMENT, KEY)
    assert kube.now() == pytest.approx(1767323045, abs=5), "a clock that is set moves no deadline"


@pytest.mark.parametrize("date", ["", "yesterday"])
async def test_a_server_that_tells_no_time_leaves_this_machines(kube, wire, date):
    wire.will(200, headers={"Date": date})
    await kube.get(DEPLOYMENT, KEY)
    assert kube.now() == pytest.approx(time.time(), abs=5)


async def test_who_does_not_lead_any_more_reads_and_renews_and_writes_nothing_else(kube, wire):
    live = {"metadata": {"name": "chat", "namespace": "team", "uid": "u", "resourceVersion": "1"}}
    kube.fence(lambda: False)
    for write in (
        lambda: kube.apply(DEPLOYMENT, KEY, {}),
        lambda: kube.apply(PARENT, KEY, {}, subresource="status"),
        lambda: kube.delete(DEPLOYMENT, live),
    ):
        with pytest.raises(LeadershipLost, match="another operator may lead"):
            await write()
    assert wire.requests == []
    wire.will(200)
    wire.will(200)
    await kube.get(DEPLOYMENT, KEY)
    await kube.replace_lease(KEY, {})


async def test_what_the_chart_does_not_grant_is_not_even_asked_for(kube, wire):
    live = {"metadata": {"name": "chat", "namespace": "team", "uid": "u", "resourceVersion": "1"}}
    for call in (
        kube.delete(SERVICE, live),
        kube.delete(POD, live),
        kube.apply(PARENT, KEY, {}),
        kube.apply(DEPLOYMENT, KEY, {}, subresource="status"),
        kube.get(Kind("", "v1", "Secret", "secrets"), KEY),
    ):
        with pytest.raises(NotPermitted, match="not among the operator's rights"):
            await call
    assert wire.requests == []


async def test_an_event_is_about_one_object_and_bounded(kube, wire):
    wire.will(201)
    meta = {"name": "chat", "namespace": "team", "uid": "u"}
    about = {"apiVersion": PARENT.api_version, "kind": PARENT.kind, "metadata": meta}
    await kube.create_event(about, "ScaledUp", "x" * 5000, warning=False)
    request, body = wire.requests[0]
    assert (request.method, request.path) == ("POST", "/api/v1/namespaces/team/events")
    assert body["involvedObject"]["uid"] == "u"
    assert (body["type"], body["reason"], len(body["message"])) == ("Normal", "ScaledUp", 1000)
    assert body["metadata"]["name"].startswith("chat.")


async def test_a_deletion_is_of_this_very_version(kube, wire):
    wire.will(200)
    live = {"metadata": {"name": "chat", "namespace": "team", "uid": "u", "resourceVersion": "7"}}
    await kube.delete(DEPLOYMENT, live)
    request, body = wire.requests[0]
    assert (request.method, request.path) == ("DELETE", "/apis/apps/v1/namespaces/team/deployments/chat")
    assert body == {
        "preconditions": {"uid": "u", "resourceVersion": "7"},
        "propagationPolicy": "Background",
    }
