"""Requests through a real gateway to real pods: streaming, retrying, breaking off, leaving."""

from __future__ import annotations

import asyncio
import json
import re
import time

import openai
import pytest

from slipway_gateway import upstream
from slipway_gateway.limits import Timeouts
from slipway_gateway.objects import Endpoint, Key

from .conftest import (
    OK,
    SSE_HEAD,
    Cluster,
    Pod,
    answers,
    chunk,
    cuts,
    deployment,
    endpoint_slice,
    event,
    plain,
    streams,
    until,
)

SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
STREAM = SSE_HEAD + b"".join(chunk(event(word)) for word in ("one", "two", "three"))
STREAM += chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
WHOLE = plain(200, json.dumps({"choices": [{"text": "x" * 50}]}).encode())


async def test_a_request_reaches_the_pod_unchanged_and_its_answer_comes_back(cluster: Cluster):
    pod = await cluster.pod(OK)
    raw = b'{"model": "chat",  "messages": [], "temperature": 1.10}'
    async with cluster.client.post(f"{cluster.url}/v1/chat/completions", data=raw) as response:
        assert response.status == 200
        assert await response.json() == {"id": "x", "choices": []}
    assert pod.bodies == [raw]
    assert pod.heads[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/embeddings"])
async def test_the_other_routes_are_carried_too(cluster: Cluster, route: str):
    pod = await cluster.pod(OK)
    async with cluster.client.post(cluster.url + route, json={"model": "chat", "input": "x"}) as response:
        assert response.status == 200
    assert f"POST {route} ".encode() in pod.heads[0]


async def test_by_namespace_and_name_the_engine_gets_its_own_first_name(cluster: Cluster):
    await cluster.deploy(deployment("team-b", "big", served=["large", "huge"]))
    pod = await cluster.pod(OK, of="team-b/big")
    assert (await cluster.chat("team-b/big", seed=5))[0] == 200
    assert pod.json()["model"] == "large"
    assert pod.json()["seed"] == 5
    assert (await cluster.chat("huge"))[0] == 200
    assert pod.json()["model"] == "huge"


async def test_events_arrive_while_the_pod_is_still_writing(cluster: Cluster):
    hold = asyncio.Event()
    await cluster.pod(streams(["one", "two"], hold=hold))
    body = {"model": "chat", "messages": [], "stream": True}
    async with cluster.client.post(f"{cluster.url}/v1/chat/completions", json=body) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.content.readuntil(b"\n\n") == event("one")
        hold.set()
        rest = await response.content.read()
    assert rest == event("two") + b"data: [DONE]\n\n"


async def test_the_openai_client_streams_through_it(cluster: Cluster):
    await cluster.pod(streams(["Hel", "lo"]))
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="unused", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["chat"]
        assert (await client.models.retrieve("team-a/chat")).id == "team-a/chat"
        messages = [{"role": "user", "content": "hi"}]
        stream = await client.chat.completions.create(model="chat", messages=messages, stream=True)
        assert "".join([part.choices[0].delta.content async for part in stream]) == "Hello"
        with pytest.raises(openai.NotFoundError, match="ask for one of 'chat'"):
            await client.chat.completions.create(model="nope", messages=messages)


@pytest.mark.parametrize("at", range(0, len(STREAM), 7))
async def test_a_stream_reset_at_any_byte_gives_whole_events_and_then_an_error(cluster: Cluster, at: int):
    await cluster.pod(cuts(STREAM, at))
    status, text, _ = await cluster.chat(stream=True)
    if at < len(SSE_HEAD):
        assert status == 502
        assert text["error"]["code"] == "upstream_failed"
        return
    assert status == 200
    assert text.endswith("\n\n")
    parts = [part.removeprefix("data: ") for part in text.split("\n\n")[:-1]]
    *good, last = [json.loads(part) for part in parts if part != "[DONE]"]
    assert [part["choices"][0]["delta"]["content"] for part in good] == ["one", "two", "three"][: len(good)]
    assert last["error"]["code"] == "upstream_failed"
    assert cluster.records()[-1]["outcome"] == "upstream_failed"


@pytest.mark.parametrize("at", [*range(0, len(WHOLE), 11), len(WHOLE) - 1])
async def test_a_plain_answer_reset_at_any_byte_is_a_502(cluster: Cluster, at: int):
    await cluster.pod(cuts(WHOLE, at))
    status, body, headers = await cluster.chat()
    assert status == 502
    assert body["error"]["code"] == "upstream_failed"
    assert headers["x-request-id"]


async def test_an_answer_of_unknown_length_that_breaks_off_is_cut(cluster: Cluster):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw = head + chunk(b"x" * 100)
    await cluster.pod(cuts(raw, len(raw)))
    with pytest.raises(Exception, match=r"payload|Connection|reset"):
        async with cluster.client.post(
            f"{cluster.url}/v1/chat/completions", json={"model": "chat"}
        ) as response:
            await response.read()
    assert cluster.records()[-1]["outcome"] == "upstream_failed"


@pytest.mark.parametrize("at", [0, 10, len(SSE_HEAD) - 1])
async def test_before_the_first_byte_another_pod_is_tried(cluster: Cluster, at: int):
    await cluster.pod(cuts(STREAM, at))
    await cluster.pod(OK)
    for _ in range(6):
        assert (await cluster.chat())[0] == 200
    assert sum(record["retries"] for record in cluster.records()) >= 1


async def test_where_the_object_asks_for_it_the_same_beginning_goes_to_the_same_pod(cluster: Cluster):
    pods = [await cluster.pod(OK) for _ in range(3)]
    obj = deployment("team-a", "chat")
    obj["spec"]["routing"] = {"policy": "prefix-affine", "prefixCharacters": 20}
    await cluster.deploy(obj)
    for turn in range(8):
        messages = [{"role": "user", "content": "The same beginning"}, {"role": "user", "content": str(turn)}]
        assert (await cluster.chat(messages=messages))[0] == 200
    assert sorted(len(pod.bodies) for pod in pods) == [0, 0, 8]
    for topic in range(30):
        assert (await cluster.chat(messages=[{"role": "user", "content": f"{topic} begins"}]))[0] == 200
    assert all(pod.bodies for pod in pods)


async def test_after_the_first_byte_no_other_pod_is_tried(cluster: Cluster):
    broken = await cluster.pod(cuts(STREAM, len(STREAM) - 10))
    other = await cluster.pod(OK)
    while not broken.requests:
        await cluster.chat(stream=True)
    assert broken.requests + other.requests == len(cluster.records())


@pytest.mark.parametrize("status", [502, 503])
async def test_a_pod_that_refuses_is_passed_over(cluster: Cluster, status: int):
    refusing = await cluster.pod(answers(plain(status, b"{}")))
    await cluster.pod(OK)
    assert {(await cluster.chat())[0] for _ in range(8)} == {200}
    assert refusing.requests >= 1


async def test_a_pod_that_takes_no_connections_is_passed_over(cluster: Cluster):
    gone = await cluster.pod(OK)
    await cluster.pod(OK)
    await gone.stop()
    assert {(await cluster.chat())[0] for _ in range(8)} == {200}


async def test_at_most_two_retries_and_each_on_another_pod(cluster: Cluster):
    pods = [await cluster.pod(cuts(STREAM, 0)) for _ in range(4)]
    assert (await cluster.chat())[0] == 502
    assert sorted(pod.requests for pod in pods) == [0, 1, 1, 1]


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_what_a_retry_would_not_mend_is_passed_on(cluster: Cluster, status: int):
    pods = [await cluster.pod(answers(plain(status, b'{"error": {"message": "no"}}'))) for _ in range(2)]
    assert (await cluster.chat())[:2] == (status, {"error": {"message": "no"}})
    assert sum(pod.requests for pod in pods) == 1


async def test_the_only_pods_own_503_is_passed_on_with_when_to_come_back(cluster: Cluster):
    await cluster.pod(answers(plain(503, b'{"error": {"message": "draining"}}')))
    status, body, headers = await cluster.chat()
    assert (status, body["error"]["message"]) == (503, "draining")
    assert int(headers["Retry-After"]) > 0


async def test_a_pod_that_keeps_failing_is_left_alone(cluster: Cluster):
    broken = await cluster.pod(answers(plain(500, b"{}")))
    await broken.stop()
    await cluster.pod(OK)
    await cluster.pod(OK)
    for _ in range(60):
        assert (await cluster.chat())[0] == 200
    assert sum(record["retries"] for record in cluster.records()) == 5
    async with cluster.client.get(f"{cluster.admin}/metrics") as response:
        text = await response.text()
    assert 'slipway_gateway_ejections_total{deployment="chat",namespace="team-a"} 1.0' in text
    assert 'slipway_gateway_ejected_endpoints{deployment="chat",namespace="team-a"} 1.0' in text


async def test_requests_go_to_the_pod_with_the_least_outstanding(cluster: Cluster):
    hold = asyncio.Event()
    pods = [await cluster.pod(streams(["x"], hold=hold)) for _ in range(3)]
    running = [asyncio.create_task(cluster.chat(stream=True)) for _ in range(9)]
    await until(lambda: sum(pod.requests for pod in pods) == 9)
    assert [pod.requests for pod in pods] == [3, 3, 3]
    hold.set()
    assert {(await task)[0] for task in running} == {200}


async def test_when_the_client_leaves_the_pod_is_told(cluster: Cluster):
    pod = await cluster.pod(streams(["one", "two"], hold=asyncio.Event()))
    response = await cluster.client.post(
        f"{cluster.url}/v1/chat/completions", json={"model": "chat", "stream": True}
    )
    await response.content.readuntil(b"\n\n")
    response.close()
    await until(lambda: pod.left == 1)
    await until(lambda: cluster.records())
    assert (cluster.records()[-1]["outcome"], cluster.records()[-1]["status"]) == ("client_left", 499)
    assert cluster.gateway.admission.requests == cluster.gateway.admission.buffered == 0


async def test_when_the_client_leaves_before_the_first_byte_the_pod_is_told(cluster: Cluster):
    gone = asyncio.Event()

    async def silent(
        pod: Pod, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> None:
        await reader.read(1)
        gone.set()
        raise ConnectionResetError

    pod = await cluster.pod(silent)
    request = asyncio.create_task(cluster.chat())
    await until(lambda: pod.requests == 1)
    request.cancel()
    async with asyncio.timeout(5):
        await gone.wait()


async def test_a_client_that_takes_nothing_is_let_go(start):
    cluster = await start(timeouts=Timeouts(idle=0.3))
    await cluster.deploy(deployment("team-a", "chat"))

    async def endless(
        pod: Pod, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> None:
        writer.write(SSE_HEAD)
        try:
            while True:
                writer.write(chunk(event("x" * 60_000)))
                await writer.drain()
        except ConnectionError:
            pod.left += 1
            raise

    pod = await cluster.pod(endless)
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.port, limit=1)
    body = b'{"model":"chat","stream":true}'
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    await until(lambda: pod.left == 1, 10)
    assert cluster.records()[-1]["outcome"] == "client_left"
    writer.transport.abort()
    assert reader


async def test_a_silent_pod_is_a_504(start):
    cluster = await start(timeouts=Timeouts(first_byte=0.2))
    await cluster.deploy(deployment("team-a", "chat"))
    await cluster.pod(answers(b""))
    status, body, _ = await cluster.chat()
    assert (status, body["error"]["code"]) == (504, "upstream_timeout")


async def test_a_stream_that_falls_silent_ends_in_an_error_event(start):
    cluster = await start(timeouts=Timeouts(idle=0.2))
    await cluster.deploy(deployment("team-a", "chat"))
    pod = await cluster.pod(streams(["one"], hold=asyncio.Event()))
    status, text, _ = await cluster.chat(stream=True)
    assert status == 200
    assert text.startswith(event("one").decode())
    assert "--idle-timeout" in text
    await until(lambda: pod.left == 1)


async def test_what_is_not_http_is_a_502(cluster: Cluster):
    await cluster.pod(cuts(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 30))
    status, body, _ = await cluster.chat()
    assert (status, body["error"]["code"]) == (502, "upstream_failed")


async def test_a_redirect_is_not_followed(cluster: Cluster):
    target = await cluster.pod(OK, of="team-a/other")
    await cluster.pod(answers(plain(307, b"", more=f"Location: http://127.0.0.1:{target.port}/\r\n")))
    async with cluster.client.post(
        f"{cluster.url}/v1/chat/completions", json={"model": "chat"}, allow_redirects=False
    ) as response:
        assert response.status == 307
        assert "Location" not in response.headers
    assert target.requests == 0


async def test_only_a_few_headers_cross(cluster: Cluster):
    pod = await cluster.pod(
        answers(
            plain(200, b"{}", more="Set-Cookie: a=b\r\nServer: s\r\nKeep-Alive: 5\r\nx-ratelimit-x: 1\r\n")
        )
    )
    sent = {
        "Authorization": "Bearer secret",
        "Cookie": "a=b",
        "X-Forwarded-For": "1.2.3.4",
        "Connection": "x-secret",
        "x-secret": "1",
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "tracestate": "k=v",
        "x-request-id": "mine-1",
    }
    async with cluster.client.post(
        f"{cluster.url}/v1/chat/completions", json={"model": "chat"}, headers=sent
    ) as response:
        assert response.headers["x-request-id"] == "mine-1"
        assert response.headers["x-ratelimit-x"] == "1"
        assert not {"Set-Cookie", "Keep-Alive"} & set(response.headers)
    for name in ("Authorization", "Cookie", "X-Forwarded-For", "x-secret"):
        assert pod.header(name) is None
    for name in ("traceparent", "tracestate", "x-request-id"):
        assert pod.header(name) == sent[name]


@pytest.mark.parametrize("given", [None, "00-zz-1-01", "00-" + "A" * 32 + "-" + "b" * 16 + "-01"])
async def test_a_request_without_a_trace_begins_one_that_its_line_names(cluster: Cluster, given: str | None):
    pod = await cluster.pod(OK)
    headers = {"tracestate": "k=v"} | ({"traceparent": given} if given else {})
    for _ in range(2):
        async with cluster.client.post(
            f"{cluster.url}/v1/chat/completions", json={"model": "chat"}, headers=headers
        ) as response:
            assert response.status == 200
        parent = pod.header("traceparent")
        assert parent is not None
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", parent)
        assert pod.header("tracestate") is None
        assert json.loads(cluster.log.getvalue().splitlines()[-1])["trace_id"] == parent.split("-")[1]
    lines = [json.loads(line) for line in cluster.log.getvalue().splitlines()]
    assert len({line["trace_id"] for line in lines}) == 2


@pytest.mark.parametrize("given", ["a b", "x" * 129, "", "é"])
async def test_an_odd_request_id_is_replaced(cluster: Cluster, given: str):
    await cluster.pod(OK)
    async with cluster.client.post(
        f"{cluster.url}/v1/chat/completions", json={"model": "chat"}, headers={"x-request-id": given}
    ) as response:
        assert response.headers["x-request-id"].startswith("req-")


async def test_without_a_ready_pod_the_answer_says_why(cluster: Cluster):
    status, body, headers = await cluster.chat()
    assert (status, body["error"]["code"]) == (503, "no_endpoint")
    assert int(headers["Retry-After"]) > 0
    await cluster.deploy(deployment("team-a", "chat", message="2 of 2 pods are Pending."))
    assert "2 of 2 pods are Pending." in (await cluster.chat())[1]["error"]["message"]
    await cluster.deploy(deployment("team-a", "chat", suspend=True))
    assert "parked" in (await cluster.chat())[1]["error"]["message"]


async def test_a_pod_that_is_no_longer_ready_gets_nothing_new(cluster: Cluster):
    hold = asyncio.Event()
    old = await cluster.pod(streams(["one", "two"], hold=hold))
    running = asyncio.create_task(cluster.chat(stream=True))
    await until(lambda: old.requests == 1)
    new = await cluster.pod(OK)
    await cluster.kube.put(SLICES, endpoint_slice("team-a", "chat", old.port, ready=False))
    await until(lambda: len(cluster.endpoints("team-a/chat")) == 1)
    for _ in range(5):
        assert (await cluster.chat())[0] == 200
    assert (old.requests, new.requests) == (1, 5)
    hold.set()
    status, text, _ = await running
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")


async def test_what_is_remembered_of_a_deployment_goes_with_it(cluster: Cluster):
    await cluster.pod(OK)
    await cluster.chat()
    await cluster.kube.delete("/apis/slipway.dev/v1alpha1/llmdeployments", "team-a", "chat")
    await until(lambda: not len(cluster.gateway.world.deployments))
    await cluster.deploy(deployment("team-b", "other"))
    await cluster.chat("other")
    async with cluster.client.get(f"{cluster.admin}/metrics") as response:
        text = await response.text()
    assert 'deployment="other"' in text
    assert 'deployment="chat"' not in text
    assert cluster.gateway.world.endpoints(Key("team-a", "chat"))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "'model' is missing"),
        (b'{"model": 5}', "'model'"),
    ],
)
async def test_a_body_that_says_nothing_useful_is_a_400(cluster: Cluster, raw: bytes, says: str):
    async with cluster.client.post(f"{cluster.url}/v1/chat/completions", data=raw) as response:
        assert response.status == 400
        assert says in (await response.json())["error"]["message"]


async def test_routes_and_methods_that_are_not_there(cluster: Cluster):
    async with cluster.client.get(f"{cluster.url}/v1/chat/completions") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    async with cluster.client.post(f"{cluster.url}/v1/files", json={}) as response:
        assert response.status == 404
        assert "/v1/chat/completions" in (await response.json())["error"]["message"]
    async with cluster.client.get(f"{cluster.url}/metrics") as response:
        assert response.status == 404
    assert {record["route"] for record in cluster.records()} == {"/v1/chat/completions", "other"}


async def test_the_access_log_has_the_facts_and_no_content(cluster: Cluster):
    await cluster.pod(OK)
    await cluster.chat(user="somebody-private")
    await cluster.chat("made-up-name")
    done, refused = cluster.records()
    assert done["deployment"] == "team-a/chat"
    assert done["status"] == 200
    assert done["bytes_out"] == len(b'{"id": "x", "choices": []}')
    assert (refused["status"], refused["outcome"], refused["deployment"]) == (404, "refused", None)
    assert "private" not in cluster.log.getvalue()
    assert "made-up-name" not in cluster.log.getvalue()


@pytest.mark.parametrize("steps", range(8))
async def test_a_gateway_without_cpu_does_not_blame_the_pod(steps: int):
    pod = Pod(OK)
    await pod.start()

    async def block() -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is held up on purpose

    async with upstream.open_session(Timeouts(connect=0.1)) as session:
        endpoint = Endpoint(f"http://127.0.0.1:{pod.port}", "p", "u")
        blocking = asyncio.create_task(block())
        response = await upstream.send(session, Key("a", "chat"), endpoint, "/v1/completions", b"{}", {})
        assert response.status == 200
        await response.read()
        await blocking
    await pod.stop()
