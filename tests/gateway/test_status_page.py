"""The status page: its data, its bounds, and itself in a real browser, over the DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from slipway_gateway import recent
from slipway_gateway.objects import Key
from slipway_gateway.record import Record
from slipway_gateway.settings import AuthMode

from .conftest import Cluster, Start, deployment, streams, tenant_secret

BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
EVIL = "<img src=x onerror=document.title='broken-in'>"


@pytest.fixture
async def shown(start: Start) -> Cluster:
    """A gateway with a status page: one deployment that serves, one that lost its name, one in trouble."""
    cluster = await start(auth=AuthMode.TENANTS, status_page=True)
    await cluster.deploy(deployment("team-a", "chat"))
    await cluster.deploy(
        deployment("team-b", "chat", created="2026-02-01T00:00:00Z", message=f"Pods are Pending {EVIL}")
    )
    await cluster.tenant(tenant_secret("t", "*", "k"))
    await cluster.pod(streams(["Hel", "lo ", EVIL]))
    return cluster


async def test_the_data_says_how_each_deployment_is(shown: Cluster):
    assert (await shown.chat("team-a/chat", key="k", stream=True))[0] == 200
    async with shown.client.get(f"{shown.admin}/status.json") as response:
        data = await response.json()
    first, second = data["deployments"]
    assert (first["state"], first["ready"], first["requests"], first["failed"]) == ("serving", 1, 1, 0)
    assert first["tokensPerSecond"] > 0
    assert first["ttftMs"]["p95"] >= 0
    assert second["state"] == "not ready"
    assert second["nameTaken"] == [{"name": "chat", "by": "team-a/chat"}]


async def test_the_page_runs_its_own_script_and_nothing_else(shown: Cluster):
    async with shown.client.get(f"{shown.admin}/status") as response:
        text, headers = await response.text(), response.headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "innerHTML" not in text
    assert not re.search(r"https?://", text)


async def test_there_is_no_page_unless_asked_for_and_none_on_the_apis_port(shown: Cluster, start: Start):
    plain = await start()
    for url in (f"{plain.admin}/status", f"{plain.admin}/status.json", f"{shown.url}/status"):
        async with shown.client.get(url) as response:
            assert response.status == 404
    async with shown.client.post(f"{plain.admin}/v1/chat/completions", json={}) as response:
        assert response.status == 404


async def test_the_chat_box_asks_for_a_key_and_for_its_own_page(shown: Cluster):
    body = {"model": "team-a/chat", "messages": []}
    url = f"{shown.admin}/v1/chat/completions"
    async with shown.client.post(url, json=body) as response:
        assert response.status == 401
    headers = {"Authorization": "Bearer k", "Sec-Fetch-Site": "cross-site"}
    async with shown.client.post(url, json=body, headers=headers) as response:
        assert response.status == 403


def test_the_last_minute_ends():
    now = [0.0]
    last = recent.Recent(clock=lambda: now[0])
    for number in range(3):
        now[0] = 10.0 * number
        record = Record("r", "POST", "x", deployment=Key("a", "b"), status=200 if number else 502)
        record.first_byte, record.tally.answer = 0.1 * (number + 1), 60
        last.note(record)
    summary = last.summary(Key("a", "b"))
    assert (summary.requests, summary.failed, summary.tokens_per_second) == (3, 1, 3.0)
    assert summary.first_byte == {"p50": pytest.approx(0.2), "p95": pytest.approx(0.3)}
    now[0] = 75.0
    assert last.summary(Key("a", "b")).requests == 1
    now[0] = 200.0
    assert last.summary(Key("a", "b")) == recent.Summary(0, 0, 0.0, {})


class Page:
    """A page in a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(60):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    assert "error" not in message, message
                    return message["result"]
                self.events.append(message)

    async def eval(self, script: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> None:
        async with asyncio.timeout(60):
            while not await self.eval(script):  # noqa: ASYNC110 - the page knows nothing of this test
                await asyncio.sleep(0.1)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    if BROWSER is None:
        pytest.skip("no Chromium on the PATH; install it (Debian: chromium) to test the page itself")
    process = await asyncio.create_subprocess_exec(
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", "about:blank"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(90):
            while not (found := re.search(rb"ws://127\.0\.0\.1:(\d+)/", await process.stderr.readline())):
                pass
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{int(found[1])}/json/list") as response:
                targets = json.loads(await response.text())
            target = next(t for t in targets if t["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                opened = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await opened.call(f"{domain}.enable")
                yield opened
                with contextlib.suppress(TimeoutError, AssertionError, TypeError):
                    await opened.call("Browser.close")
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_in_a_browser_the_page_shows_the_deployments_and_chats(shown: Cluster, page: Page):
    await page.call("Page.navigate", url=f"{shown.admin}/status")
    await page.until("document.querySelectorAll('#rows tr').length === 2")
    text = await page.eval("document.querySelector('table').innerText")
    assert "team-a/chat" in text
    assert "serving" in text
    assert "the name chat is held by team-a/chat" in text
    assert EVIL in text, "what users wrote is text"
    assert await page.eval("document.querySelector('#summary').textContent") == (
        "1 of 2 deployments serve; 1 gateway"
    )
    say = "document.querySelector('#prompt').value = 'Hi'; document.querySelector('#send').click()"
    await page.eval(say)
    await page.until("document.querySelector('#timing').textContent.includes('key')")
    await page.eval("document.querySelector('#key').value = 'k'; " + say)
    await page.until("document.querySelector('#timing').textContent.startsWith('first piece after')")
    assert await page.eval("document.querySelector('#answer').textContent") == "Hello " + EVIL
    await page.until("document.querySelector('#rows tr td:nth-child(6)').textContent === '1'")
    assert await page.eval("document.title") == "Slipway gateway"
    assert await page.eval("document.querySelectorAll('#answer img, #rows img').length") == 0
    assert await page.eval("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    thrown = [e for e in page.events if e["method"] == "Runtime.exceptionThrown"]
    refused = [
        e["params"]["entry"]["text"]
        for e in page.events
        if e["method"] == "Log.entryAdded" and "Content Security" in e["params"]["entry"]["text"]
    ]
    assert (thrown, refused) == ([], [])
