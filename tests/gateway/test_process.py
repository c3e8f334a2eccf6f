"""The program as it is started: its arguments, its kubeconfig, its signals, its exit status, its imports."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import slipway_gateway

from .conftest import SLICES, KubeServer, Pod, Process, endpoint_slice, streams, until_ready


async def first_answer(client: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
    """Ask for a stream until the pod is known."""
    async with asyncio.timeout(10):
        while True:
            response = await client.post(url, json={"model": "chat", "stream": True})
            if response.status == 200:
                return response
            await asyncio.sleep(0.02)


async def test_sigterm_finishes_the_streams_and_exits_zero(kube: KubeServer, running: Process):
    hold = asyncio.Event()
    pod = Pod(streams(["one", "two"], hold=hold))
    await pod.start()
    await kube.put(SLICES, endpoint_slice("team-a", "chat", pod.port))
    async with aiohttp.ClientSession() as client:
        await until_ready(client, running)
        url = f"{running.url}/v1/chat/completions"
        response = await first_answer(client, url)
        assert b"one" in await response.content.readuntil(b"\n\n")
        running.process.send_signal(signal.SIGTERM)
        await until_ready(client, running, 503)
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.post(url, json={"model": "chat"})
        hold.set()
        assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
        async with asyncio.timeout(5):
            await running.process.wait()
    assert running.process.returncode == 0
    line = json.loads(running.written.read_text().splitlines()[-1])
    assert (line["status"], line["outcome"], line["deployment"]) == (200, "ok", "team-a/chat")
    await pod.stop()


async def test_a_second_signal_does_not_wait(kube: KubeServer, running: Process):
    pod = Pod(streams(["one", "two"], hold=asyncio.Event()))
    await pod.start()
    await kube.put(SLICES, endpoint_slice("team-a", "chat", pod.port))
    async with aiohttp.ClientSession() as client:
        await until_ready(client, running)
        url = f"{running.url}/v1/chat/completions"
        response = await first_answer(client, url)
        await response.content.readuntil(b"\n\n")
        running.process.send_signal(signal.SIGTERM)
        await until_ready(client, running, 503)
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(8):
            assert await running.process.wait() == 0
        response.close()
    await pod.stop()


def command(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slipway_gateway", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["run", "--auth-mode", "open"], ["run", "--idle-timeout", "0"], ["run", "--max-requests", "0"]],
)
def test_a_wrong_command_line_exits_2(arguments: list[str]):
    assert command(*arguments).returncode == 2


def test_without_a_cluster_it_says_what_to_do():
    done = command("run", "--kubeconfig", "/nowhere")
    assert done.returncode == 1
    assert "--kubeconfig FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_module_imports_the_kubernetes_client_and_only_when_it_must():
    sources = Path(slipway_gateway.__file__).parent.rglob("*.py")
    assert [s.name for s in sources if re.search(r"^\s*(from|import) kubernetes", s.read_text(), re.M)] == [
        "kube.py"
    ]
    code = "import sys, slipway_gateway.__main__; print(any(m.startswith('kubernetes') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
