"""The process: it starts without an API server, says so, and leaves when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

from slipway_operator.app import run
from slipway_operator.cli import main
from slipway_operator.settings import parse_settings


async def test_it_waits_for_the_api_server_with_its_health_pages_open_and_stops_on_a_signal(
    kubeconfig, caplog
):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening: every connection is refused
        kubeconfig(nobody.getsockname()[1])
        settings = parse_settings(
            ["run", "--host", "127.0.0.1", "--health-port", "0", "--metrics-port", "0"], {}
        )
        running = asyncio.create_task(run(settings))
        async with asyncio.timeout(30):
            while "could not be read" not in caplog.text:  # noqa: ASYNC110 - a log line is what is waited for
                await asyncio.sleep(0.05)
            assert not running.done()
            os.kill(os.getpid(), signal.SIGTERM)
            assert await running == 0


def test_without_any_cluster_it_says_what_to_set(monkeypatch, tmp_path, caplog):
    missing = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", missing)
    monkeypatch.setattr("slipway_operator.cli.configure", lambda level: None)  # pytest keeps its own handlers
    assert main(["run", "--host", "127.0.0.1", "--health-port", "0", "--metrics-port", "0"]) == 1
    assert "set KUBECONFIG to a file that names a cluster" in caplog.text
