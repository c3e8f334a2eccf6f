"""Clients that send too much, too slowly, too often or two things at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from typing import Any

import pytest

from slipway_gateway.limits import Limits, Timeouts

from .conftest import OK, Cluster, Pod, deployment, plain, streams, until


async def raw(cluster: Cluster, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes and return everything until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.port)
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            return await reader.read()
    finally:
        writer.close()


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/chat/completions HTTP/1.1", "Host: x", *lines, "", ""]).encode()


BODY = b'{"model":"chat"}'


async def limited(start: Any, respond: Any = OK, **more: Any) -> tuple[Cluster, Pod]:
    cluster = await start(**more)
    await cluster.deploy(deployment("team-a", "chat"))
    return cluster, await cluster.pod(respond)


async def test_a_100_mb_body_is_refused_before_it_is_read(cluster: Cluster):
    began = time.monotonic()
    answer = await raw(cluster, head("Content-Length: 104857600") + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert time.monotonic() - began < 4
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "request_too_large"
    assert cluster.records()[-1]["bytes_in"] == 0


async def test_a_body_without_a_length_is_refused_where_it_grows_too_large(start: Any):
    cluster, pod = await limited(start, limits=Limits(max_body_bytes=1000))
    answer = await raw(
        cluster, head("Transfer-Encoding: chunked") + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert pod.requests == 0
    assert cluster.gateway.admission.buffered == 0


async def test_all_bodies_together_are_bounded(start: Any):
    cluster, _ = await limited(start, limits=Limits(max_buffered_bytes=10))
    status, body, headers = await cluster.chat()
    assert (status, body["error"]["code"]) == (429, "gateway_busy")
    assert headers["Retry-After"] == "1"


async def test_requests_at_a_time_are_bounded(start: Any):
    hold = asyncio.Event()
    cluster, pod = await limited(start, streams(["x"], hold=hold), limits=Limits(max_requests=2))
    running = [asyncio.create_task(cluster.chat(stream=True)) for _ in range(2)]
    await until(lambda: pod.requests == 2)
    assert (await cluster.chat())[0] == 429
    hold.set()
    assert [(await task)[0] for task in running] == [200, 200]
    assert (await cluster.chat())[0] == 200


async def test_connections_at_a_time_are_bounded(start: Any):
    cluster, _ = await limited(start, limits=Limits(max_connections=2))
    idle = [await asyncio.open_connection("127.0.0.1", cluster.gateway.port) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert await raw(cluster, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.05)
    assert (await cluster.chat())[0] == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end_is_cut(start: Any, sent: bytes):
    cluster, _ = await limited(start, timeouts=Timeouts(header=0.3))
    began = time.monotonic()
    assert await raw(cluster, sent) == b""
    assert 0.25 < time.monotonic() - began < 2


async def test_a_head_that_drips_is_cut_on_a_used_connection_too(start: Any):
    cluster, _ = await limited(start, timeouts=Timeouts(header=0.3))
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await reader.readuntil(b"]}")
    await asyncio.sleep(0.5)  # an idle connection may stay
    assert not reader.at_eof()

    async def drip() -> None:
        for byte in b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(3):
        # A byte that arrives after the cut is answered with a reset, so either end is seen.
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    writer.close()


async def test_a_body_that_drips_is_a_408(start: Any):
    cluster, pod = await limited(start, timeouts=Timeouts(body=0.3))
    answer = await raw(cluster, head("Content-Length: 16") + BODY[:5])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert pod.requests == 0


async def test_a_thousand_slow_clients_do_not_keep_others_out(start: Any):
    cluster, _ = await limited(start, timeouts=Timeouts(header=1.0))
    slow = [await asyncio.open_connection("127.0.0.1", cluster.gateway.port) for _ in range(400)]
    for _, writer in slow:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert (await cluster.chat())[0] == 200
    async with asyncio.timeout(5):
        for reader, _ in slow:
            assert await reader.read() == b""
    for _, writer in slow:
        writer.close()


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 16", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 16"),
        ("Content-Length: 16", "Content-Length: 17"),
        ("Content-Length: 16, 16",),
        ("Content-Length: +16",),
        ("Content-Length: 0x10",),
        ("Content-Length: -1",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding : chunked",),
        ("Content-Length: 16", " folded: x"),
        ("Content-Length: 16", "X-Bad: a\x00b"),
        ("Content-Length: 16", "X-Bad: a\nTransfer-Encoding: chunked"),
        ("Content-Length: 16", "X-Long: " + "x" * 9000),
        ("Content-Length: 16", *(f"X-{number}: 1" for number in range(100))),
    ],
)
async def test_a_head_that_could_be_read_in_two_ways_is_refused(cluster: Cluster, lines: tuple[str, ...]):
    pod = await cluster.pod(OK)
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await raw(cluster, head(*lines) + b"10\r\n" + BODY + b"\r\n0\r\n\r\n" + hidden)
    assert re.findall(rb"HTTP/1.\d (\d+)", answer) == [b"400"]
    assert [record["status"] for record in cluster.records()] == [400]
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] in ("invalid_http", "invalid_request")
    assert pod.requests == 0


async def test_what_follows_a_request_is_never_part_of_what_the_pod_gets(cluster: Cluster):
    pod = await cluster.pod(OK)
    hidden = b"POST /admin HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answer = await raw(cluster, head("Content-Length: 16") + BODY + hidden)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 404 " in answer
    assert pod.bodies == [BODY]


async def test_a_pods_ambiguous_answer_is_not_passed_on(cluster: Cluster):
    await cluster.pod(OK, of="team-a/chat")
    cluster.pods[0].respond = _ambiguous
    status, body, _ = await cluster.chat()
    assert (status, body["error"]["code"]) == (502, "upstream_failed")


async def _ambiguous(
    pod: Pod, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
) -> None:
    writer.write(plain(200, b"0\r\n\r\n", more="Transfer-Encoding: chunked\r\n"))
    await writer.drain()


async def test_a_compressed_body_is_refused(cluster: Cluster):
    await cluster.pod(OK)
    answer = await raw(cluster, head("Content-Encoding: gzip", "Content-Length: 16") + BODY)
    assert answer.startswith(b"HTTP/1.1 415 ")


async def test_expect_100_continue_is_answered_only_for_what_will_be_read(cluster: Cluster):
    await cluster.pod(OK)
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.port)
    writer.write(head("Expect: 100-continue", "Content-Length: 16", "Connection: close"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    refused = await raw(cluster, head("Expect: 100-continue", "Content-Length: 104857600"))
    assert refused.startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_leaves_while_sending_is_no_error(cluster: Cluster):
    _, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.port)
    writer.write(head("Content-Length: 16") + BODY[:5])
    await until(lambda: cluster.gateway.admission.requests == 1)
    writer.transport.abort()
    await until(lambda: cluster.gateway.admission.requests == 0)
    await until(lambda: cluster.records())
    assert cluster.records()[-1]["status"] == 499
    assert cluster.gateway.admission.buffered == 0
