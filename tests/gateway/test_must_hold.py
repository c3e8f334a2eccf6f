"""What must hold whatever clients, pods and API servers do, against the gateway as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from .conftest import (
    DEPLOYMENTS,
    OPERATOR,
    SLICES,
    SSE_HEAD,
    KubeServer,
    Pod,
    Process,
    chunk,
    cuts,
    endpoint_slice,
    event,
    from_zero,
    plain,
    streams,
    until_ready,
)

AWAY_SECONDS = float(os.environ.get("SLIPWAY_API_AWAY_SECONDS", "6"))
"""How long the API server is away in the test; set to 300 for the whole five minutes."""

STREAM = SSE_HEAD + b"".join(chunk(event(word)) for word in ("one", "two", "three"))
STREAM += chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
WHOLE = plain(200, json.dumps({"choices": [{"text": "x" * 50}], "usage": {"prompt_tokens": 1}}).encode())
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED += chunk(b'{"data": [1, 2, 3],') + chunk(b'"usage": {"prompt_tokens": 1}}') + b"0\r\n\r\n"


@pytest.fixture
async def client(running: Process) -> AsyncIterator[aiohttp.ClientSession]:
    patient = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=patient) as session:
        await until_ready(session, running)
        yield session


@pytest.fixture
async def pods() -> AsyncIterator[list[Pod]]:
    started: list[Pod] = []
    yield started
    for pod in started:
        await pod.stop()


async def chat(client: aiohttp.ClientSession, url: str, **more: Any) -> tuple[int, bytes]:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **more}
    async with client.post(f"{url}/v1/chat/completions", json=body) as response:
        return response.status, await response.read()


async def serve(kube: KubeServer, pods: list[Pod], respond: Any) -> Pod:
    pod = Pod(respond)
    await pod.start()
    pods.append(pod)
    await kube.put(SLICES, endpoint_slice("team-a", "chat", pod.port))
    return pod


async def answered(client: aiohttp.ClientSession, running: Process) -> None:
    """Wait until the pod is known."""
    async with asyncio.timeout(20):
        while (await chat(client, running.url))[0] == 503:  # noqa: ASYNC110 - it knows nothing of this test
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("raw", [STREAM, WHOLE, CHUNKED], ids=["stream", "whole", "chunked"])
async def test_a_pod_may_break_off_at_every_single_byte(
    kube: KubeServer, running: Process, client: aiohttp.ClientSession, pods: list[Pod], raw: bytes
):
    async def respond(pod: Pod, reader: Any, writer: Any, body: bytes) -> None:
        at = json.loads(body).get("seed", 0)
        # A pod that always failed would sit out, so every other request succeeds.
        if at < 0:
            writer.write(WHOLE)
            return
        await cuts(raw, at)(pod, reader, writer, body)

    await serve(kube, pods, respond)
    await answered(client, running)
    whole = raw.partition(b"\r\n\r\n")[2]
    outcomes = set()
    for at in range(len(raw)):
        assert (await chat(client, running.url, seed=-1))[0] == 200
        try:
            status, got = await chat(client, running.url, seed=at, stream=raw is STREAM)
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError):
            outcomes.add("cut")
            assert raw is CHUNKED
            continue
        if status == 502:
            outcomes.add("refused")
            assert json.loads(got)["error"]["code"] == "upstream_failed"
        elif raw is STREAM and b"upstream_failed" in got:
            outcomes.add("told")
            *events, error = got.decode().strip().split("\n\n")
            assert all(f"{one}\n\n".encode() in STREAM for one in events), "whole events only"
            assert json.loads(error.removeprefix("data: "))["error"]["code"] == "upstream_failed"
        else:
            # Whatever is passed on as a success is complete: only the framing's last bytes were missing.
            outcomes.add("complete")
            assert status == 200
            assert b"[DONE]" in got if raw is STREAM else got in whole or raw is CHUNKED
            assert raw is not WHOLE
    assert outcomes <= {"refused", "told", "complete", "cut"}
    assert "refused" in outcomes


async def test_100_mb_bodies_leave_no_trace(
    kube: KubeServer, running: Process, client: aiohttp.ClientSession, pods: list[Pod]
):
    await serve(kube, pods, streams(["x"]))
    await answered(client, running)
    before = running.peak_mib()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1024 * 1024

    async def send() -> int:
        try:
            async with client.post(f"{running.url}/v1/chat/completions", data=pieces()) as response:
                return response.status
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return 413  # refused and cut while it was still sending

    assert set(await asyncio.gather(*(send() for _ in range(8)))) == {413}
    # Eight of them hold --max-body-bytes each at the most, 8 MiB.
    assert running.peak_mib() - before < 8 * 8 + 40
    assert (await chat(client, running.url))[0] == 200


async def test_slow_clients_are_let_go_and_keep_nobody_out(
    kube: KubeServer, running: Process, client: aiohttp.ClientSession, pods: list[Pod]
):
    await serve(kube, pods, streams(["x"]))
    await answered(client, running)
    port = int(running.url.rpartition(":")[2])
    slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
    for _, writer in slow:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
    for _ in range(5):
        assert (await chat(client, running.url))[0] == 200
        for _, writer in slow:
            if not writer.is_closing():
                writer.write(b"X: y\r\n")
        await asyncio.sleep(0.2)
    async with asyncio.timeout(20):
        for reader, writer in slow:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()


SMUGGLED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n" + b'{"model":"evil"}'
)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 16\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + SMUGGLED),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n" + SMUGGLED),
        ("Transfer-Encoding: \x0bchunked", b"0\r\n\r\n" + SMUGGLED),
        ("Content-Length: 16\r\nContent-Length: 0", b'{"model":"chat"}' + SMUGGLED),
        ("Content-Length:\r\n 16", b'{"model":"chat"}' + SMUGGLED),
        ("Content-Length : 16", b'{"model":"chat"}' + SMUGGLED),
        ("Content-Length: 1_6", b'{"model":"chat"}' + SMUGGLED),
        ("Transfer-Encoding: chunked", b"10;x=\r\ny\r\n" + SMUGGLED),
        ("Transfer-Encoding: chunked", b"-1\r\n" + SMUGGLED),
        ("Transfer-Encoding: chunked", b"fffffffffffffffff\r\n" + SMUGGLED),
        ("Transfer-Encoding: chunked", b"0x10\r\n" + b'{"model":"chat"}\r\n0\r\n\r\n' + SMUGGLED),
    ],
)
async def test_nothing_is_smuggled_past_the_gateway(
    kube: KubeServer,
    running: Process,
    client: aiohttp.ClientSession,
    pods: list[Pod],
    head: str,
    body: bytes,
):
    pod = await serve(kube, pods, streams(["x"]))
    await answered(client, running)
    before = pod.requests
    reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rpartition(":")[2]))
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode("latin-1") + body)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    # One refusal, and the connection with whatever followed is gone.
    assert re.findall(rb"HTTP/1\.\d (\d+)", answer) == [b"400"], answer
    assert pod.requests == before
    assert not any(b"evil" in sent for sent in pod.bodies)


async def test_pods_that_vanish_take_only_their_own_streams(
    kube: KubeServer, running: Process, client: aiohttp.ClientSession, pods: list[Pod]
):
    hold = asyncio.Event()
    first = await serve(kube, pods, streams(["one", "two"], hold=hold))
    second = await serve(kube, pods, streams(["one", "two"], hold=hold))
    async with asyncio.timeout(20):
        while first.requests + second.requests < 20 or not first.requests or not second.requests:
            responses = getattr(client, "held", [])
            body = {"model": "chat", "messages": [], "stream": True}
            response = await client.post(f"{running.url}/v1/chat/completions", json=body)
            if response.status != 200:
                response.release()
                continue
            await response.content.readuntil(b"\n\n")
            responses.append(response)
            client.__dict__["held"] = responses
    gone = first.requests
    await first.stop()
    hold.set()
    texts = [await response.content.read() for response in client.__dict__.pop("held")]
    broken = [text for text in texts if b"upstream_failed" in text]
    assert len(broken) == gone
    assert all(text.endswith(b"data: [DONE]\n\n") for text in texts if text not in broken)
    # The pod's address is still in the slices: whoever comes next is taken to the other one.
    assert [(await chat(client, running.url, stream=True))[0] for _ in range(10)] == [200] * 10


async def test_it_serves_and_holds_while_the_api_server_is_away(
    kube: KubeServer, running: Process, client: aiohttp.ClientSession, pods: list[Pod]
):
    kube.users["good"] = OPERATOR
    await kube.put(DEPLOYMENTS, from_zero("zero"))
    pod = await serve(kube, pods, streams(["x"]))
    await answered(client, running)
    poll = {"headers": {"Authorization": "Bearer good"}}
    async with client.get(f"{running.admin}/internal/v1/holds", **poll) as response:
        assert response.status == 200
    await kube.stop()
    began, good = time.monotonic(), 0
    sleeper = asyncio.create_task(chat(client, running.url, model="zero"))
    while time.monotonic() - began < AWAY_SECONDS:
        assert (await chat(client, running.url, stream=True))[0] == 200
        good += 1
        async with client.get(f"{running.admin}/internal/v1/holds", **poll) as response:
            assert response.status == 200
            held = (await response.json())["held"]
        await until_ready(client, running)
        await asyncio.sleep(0.2)
    assert [entry["name"] for entry in held] == ["zero"]
    assert pod.requests >= good > 5
    await kube.start()
    other = Pod(streams(["late"]))
    await other.start()
    pods.append(other)
    await kube.put(SLICES, endpoint_slice("team-a", "zero", other.port))
    # A watch pauses at most 30 s after a long absence.
    async with asyncio.timeout(60):
        assert (await sleeper)[0] == 200
