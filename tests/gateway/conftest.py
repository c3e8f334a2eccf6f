"""Real servers on loopback: an API server that speaks list and watch, and pods that misbehave on request."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from slipway_gateway.gateway import Gateway
from slipway_gateway.kube import Access
from slipway_gateway.limits import Limits, Timeouts
from slipway_gateway.record import AccessLog
from slipway_gateway.settings import AuthMode, Settings
from slipway_gateway.tenants import digest_of

DEPLOYMENTS = "/apis/slipway.dev/v1alpha1/llmdeployments"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
SECRETS = "/api/v1/namespaces/slipway-system/secrets"
OPERATOR = "system:serviceaccount:slipway-system:slipway-operator"


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait until a condition holds, or fail."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - whatever is waited for knows nothing of this test
            await asyncio.sleep(0.005)


class KubeServer:
    """Lists and watches over HTTP, as the API server answers them."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.version = 100
        self.oldest = 0
        """Watches from before this version get 410."""
        self.events: list[tuple[int, str, str, dict[str, Any]]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.refuse_with: int | None = None
        self.expire_in_stream = False
        self.expire_continue = False
        self.port = 0
        self.reviews: list[dict[str, Any]] = []
        self.knows_audiences = True
        self.users: dict[str, str] = {}
        """Whose tokens there are, all for the gateway's audience."""
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._watches: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self._review)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            for task in self._watches:
                task.cancel()
            await self._runner.cleanup()
            self._runner = None

    async def put(self, path: str, obj: dict[str, Any]) -> None:
        known = self.objects.setdefault(path, {})
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        await self._record(path, "MODIFIED" if key in known else "ADDED", obj)
        known[key] = obj

    async def delete(self, path: str, namespace: str, name: str) -> None:
        await self._record(path, "DELETED", self.objects[path].pop((namespace, name)))

    async def delete_silently(self, path: str, namespace: str, name: str) -> None:
        """Remove an object in a way that no watch will tell, and expire all versions."""
        del self.objects[path][(namespace, name)]
        self.version += 1
        self.oldest = self.version

    async def end_watches(self) -> None:
        for task in list(self._watches):
            task.cancel()
        await asyncio.sleep(0)

    @property
    def watching(self) -> int:
        return len(self._watches)

    async def _record(self, path: str, kind: str, obj: dict[str, Any]) -> None:
        async with self._changed:
            self.version += 1
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.events.append((self.version, path, kind, json.loads(json.dumps(obj))))
            self._changed.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append((request.path, query))
        if self.refuse_with is not None:
            return web.json_response({"kind": "Status", "code": self.refuse_with}, status=self.refuse_with)
        if query.get("watch") == "true":
            return await self._watch(request, int(query["resourceVersion"]))
        return self._list(request.path, query)

    async def _review(self, request: web.Request) -> web.Response:
        if self.refuse_with is not None:
            return web.json_response({"kind": "Status", "code": self.refuse_with}, status=self.refuse_with)
        review = await request.json()
        self.reviews.append(review)
        user = self.users.get(review["spec"]["token"])
        status: dict[str, Any] = {"authenticated": user is not None}
        if user is not None:
            status["user"] = {"username": user}
            status |= {"audiences": review["spec"]["audiences"]} if self.knows_audiences else {}
        return web.json_response(review | {"status": status}, status=201)

    def _list(self, path: str, query: dict[str, str]) -> web.Response:
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        if start and self.expire_continue:
            self.expire_continue = False
            return web.json_response({"kind": "Status", "code": 410}, status=410)
        items = list(self.objects.get(path, {}).values())
        page = items[start : start + limit] if limit else items
        more = str(start + limit) if limit and start + limit < len(items) else ""
        meta = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"kind": "List", "metadata": meta, "items": page})

    async def _watch(self, request: web.Request, version: int) -> web.StreamResponse:
        if version < self.oldest and not self.expire_in_stream:
            return web.json_response({"kind": "Status", "code": 410}, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            if version < self.oldest:
                await self._send(response, "ERROR", {"kind": "Status", "code": 410, "message": "too old"})
                return response
            while True:
                async with self._changed:
                    while self.version <= version:
                        await self._changed.wait()
                for at, path, kind, obj in list(self.events):
                    if at > version and path == request.path:
                        await self._send(response, kind, obj)
                version = self.version
        except (asyncio.CancelledError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            return response
        finally:
            self._watches.discard(task)

    async def _send(self, response: web.StreamResponse, kind: str, obj: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        # In two pieces: a line may arrive in any number of them.
        await response.write(line[: len(line) // 2])
        await response.write(line[len(line) // 2 :])


def deployment(
    namespace: str,
    name: str,
    *,
    served: list[str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    uid: str = "",
    suspend: bool = False,
    message: str = "",
) -> dict[str, Any]:
    model: dict[str, Any] = {"source": "hf://org/model"}
    if served is not None:
        model["servedNames"] = served
    obj: dict[str, Any] = {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid or f"uid-{namespace}-{name}",
            "creationTimestamp": created,
        },
        "spec": {"model": model, "suspend": suspend, "replicas": 1},
    }
    if message:
        obj["status"] = {"conditions": [{"type": "Ready", "status": "False", "message": message}]}
    return obj


def from_zero(
    name: str = "chat", *, sequences: int = 2, namespace: str = "team-a", **routing: int
) -> dict[str, Any]:
    """An LLMDeployment that may be at zero, whose pods carry `sequences` requests each."""
    obj = deployment(namespace, name)
    obj["spec"] |= {"autoscaling": {"minReplicas": 0, "maxReplicas": 4}, "routing": routing}
    effective = [{"field": "engine.maxNumSeqs", "value": str(sequences), "from": "spec"}]
    obj["status"] = {"plan": {"effective": effective}}
    return obj


def endpoint_slice(
    namespace: str,
    service: str,
    port: int,
    *,
    pod: str = "",
    address: str = "127.0.0.1",
    ready: bool | None = True,
) -> dict[str, Any]:
    pod = pod or f"{service}-{port}"
    return {
        "metadata": {
            "namespace": namespace,
            "name": f"{service}-{port}",
            "labels": {"kubernetes.io/service-name": service, "slipway.dev/deployment": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {} if ready is None else {"ready": ready},
                "targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-{pod}"},
            }
        ],
    }


def tenant_secret(tenant: str, namespaces: str, *keys: str, name: str = "") -> dict[str, Any]:
    values = {"namespaces": namespaces, "keys": "\n".join(f"sha256:{digest_of(key)}" for key in keys)}
    return {
        "metadata": {
            "namespace": "slipway-system",
            "name": name or f"slipway-tenant-{tenant}",
            "uid": f"uid-{name or tenant}",
            "labels": {"slipway.dev/tenant": tenant},
        },
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in values.items()},
    }


Respond = Callable[["Pod", asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


@dataclass
class Pod:
    """An upstream that speaks HTTP in bytes of its own choosing."""

    respond: Respond
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    left: int = 0
    """Requests during which the gateway closed the connection."""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def requests(self) -> int:
        return len(self.heads)

    def header(self, name: str, index: int = -1) -> str | None:
        for line in self.heads[index].decode().split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def json(self, index: int = -1) -> Any:
        return json.loads(self.bodies[index])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            await asyncio.sleep(0.01)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(self.header("content-length") or 0)
                body = await reader.readexactly(length)
                self.bodies.append(body)
                await self.respond(self, reader, writer, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def plain(status: int, body: bytes, kind: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def answers(raw: bytes) -> Respond:
    """Respond with these bytes."""

    async def respond(
        pod: Pod, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> None:
        writer.write(raw)
        await writer.drain()

    return respond


def cuts(raw: bytes, at: int) -> Respond:
    """Respond with the first bytes of this and reset the connection."""

    async def respond(
        pod: Pod, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> None:
        writer.write(raw[:at])
        await writer.drain()
        await asyncio.sleep(0.002)
        writer.transport.abort()
        raise ConnectionResetError

    return respond


def streams(words: list[str], pause: float = 0.0, hold: asyncio.Event | None = None) -> Respond:
    """Stream words as server-sent events; after the first, wait for `hold`; count the gateway's leaving."""

    async def respond(
        pod: Pod, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> None:
        writer.write(SSE_HEAD)
        for number, word in enumerate(words):
            writer.write(chunk(event(word)))
            await writer.drain()
            if number == 0 and hold is not None:
                await _until_set_or_left(pod, reader, hold)
            await asyncio.sleep(pause)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()

    return respond


async def _until_set_or_left(pod: Pod, reader: asyncio.StreamReader, hold: asyncio.Event) -> None:
    gone, go = asyncio.create_task(reader.read(1)), asyncio.create_task(hold.wait())
    await asyncio.wait({gone, go}, return_when=asyncio.FIRST_COMPLETED)
    go.cancel()
    if gone.done():
        pod.left += 1
        raise ConnectionResetError
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gone


OK = answers(plain(200, b'{"id": "x", "choices": []}'))


@dataclass
class Cluster:
    """The gateway under test and the world around it."""

    kube: KubeServer
    gateway: Gateway
    client: aiohttp.ClientSession
    log: io.StringIO
    pods: list[Pod] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.gateway.admin_port}"

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    async def pod(self, respond: Respond, of: str = "team-a/chat") -> Pod:
        """Start a pod and make it an endpoint of a deployment."""
        pod = Pod(respond)
        await pod.start()
        self.pods.append(pod)
        namespace, name = of.split("/")
        before = len(self.endpoints(of))
        await self.kube.put(SLICES, endpoint_slice(namespace, name, pod.port))
        await until(lambda: len(self.endpoints(of)) == before + 1)
        return pod

    def endpoints(self, of: str) -> tuple[Any, ...]:
        from slipway_gateway.objects import Key

        return self.gateway.world.endpoints(Key(*of.split("/")))

    async def deploy(self, obj: dict[str, Any]) -> None:
        count = self.gateway.world.generation
        await self.kube.put(DEPLOYMENTS, obj)
        await until(lambda: self.gateway.world.generation > count)

    async def tenant(self, secret: dict[str, Any]) -> None:
        await self.kube.put(SECRETS, secret)
        name = secret["metadata"]["name"]
        await until(lambda: any(s.key.name == name for s in self.gateway.world.secrets))

    async def chat(self, model: str = "chat", key: str = "", **more: Any) -> tuple[int, Any, Any]:
        """Send a chat request; return status, body and headers."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        async with self.client.post(
            f"{self.url}/v1/chat/completions", json=body, headers=headers
        ) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else text, response.headers


Start = Callable[..., Awaitable[Cluster]]


@pytest.fixture
async def kube() -> AsyncIterator[KubeServer]:
    server = KubeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def start(kube: KubeServer) -> AsyncIterator[Start]:
    """Start a gateway: `await start(auth=..., limits=..., timeouts=...)`."""
    running: list[Cluster] = []

    async def headers() -> dict[str, str]:
        return {}

    async def begin(
        *,
        auth: AuthMode = AuthMode.NONE,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        wait: bool = True,
        **more: Any,
    ) -> Cluster:
        settings = Settings(
            host="127.0.0.1",
            port=0,
            admin_port=0,
            auth_mode=auth,
            limits=limits or Limits(),
            timeouts=timeouts or Timeouts(),
        )
        log = io.StringIO()
        access = Access(kube.url, None, headers, "slipway-system")
        gateway = Gateway(replace(settings, **more), access, AccessLog(log))
        await gateway.start()
        cluster = Cluster(kube, gateway, aiohttp.ClientSession(), log)
        running.append(cluster)
        if wait:
            await until(gateway.watches.synced)
        return cluster

    yield begin
    for cluster in running:
        await cluster.client.close()
        await cluster.gateway.stop()
        for pod in cluster.pods:
            await pod.stop()


@pytest.fixture
async def cluster(start: Start) -> Cluster:
    """A gateway without keys, and one deployment `team-a/chat` that has no pod yet."""
    cluster = await start()
    await cluster.deploy(deployment("team-a", "chat"))
    return cluster


class Process:
    """A running `slipway-gateway run`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, admin: int, written: Path) -> None:
        self.process = process
        self.written = written
        """Its standard output."""
        self.url = f"http://127.0.0.1:{port}"
        self.admin = f"http://127.0.0.1:{admin}"

    def peak_mib(self) -> float:
        """Return the most memory that the process has held."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1024


@pytest.fixture
async def running(kube: KubeServer, tmp_path: Path) -> AsyncIterator[Process]:
    """Run `slipway-gateway run`, with one deployment `team-a/chat` and no pod."""
    await kube.put(DEPLOYMENTS, deployment("team-a", "chat"))
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "slipway-system"}}],
        "clusters": [{"name": "k", "cluster": {"server": kube.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig))
    # Files, not pipes: a pipe that nobody reads would stop the process sooner or later.
    written, errors = tmp_path / "requests", tmp_path / "errors"
    with written.open("wb") as out, errors.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slipway_gateway", "run", "--host", "127.0.0.1", "--port", "0"),
            *("--admin-port", "0", "--auth-mode", "none", "--kubeconfig", str(file), "--drain-seconds", "10"),
            *("--header-timeout", "3", "--holds-reader", OPERATOR),
            stdout=out,
            stderr=err,
        )
    try:
        ports = re.compile(r"listening on (\d+), admin on (\d+)")
        await until(lambda: ports.search(errors.read_text()), 60)
        found = ports.search(errors.read_text())
        assert found is not None
        yield Process(process, int(found[1]), int(found[2]), written)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until_ready(client: aiohttp.ClientSession, running: Process, status: int = 200) -> None:
    async with asyncio.timeout(10):
        while True:
            async with client.get(f"{running.admin}/readyz") as response:
                if response.status == status:
                    return
            await asyncio.sleep(0.02)
