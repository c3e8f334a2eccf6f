"""Nodes and kubelets that are not there: to test scheduling, and a thousand pods on a small machine.

The Node objects, the pods and their scheduling are real; only the kubelet is played, as kwok does: it keeps
the nodes ready, says of pods bound to them that they run and serve, and lets deleted ones go.

    python -m e2e.fake_nodes --nodes 2 --gpus 1 --prefix lab

A pod gets there with `nodeSelector: {slipway.dev/fake: lab}` and a toleration of the taint of the same key.
An engine whose arguments hold `never-ready` runs and is never ready; one with `crashes` ends with a report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes.aio import client, config

LABEL = "slipway.dev/fake"
RENEW_SECONDS = 10
PRODUCT = "NVIDIA-L4"
CRASH = {"reason": "ModelUnsupported", "message": "Layers of type X are unknown; use another checkpoint."}


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Nodes:
    """Some nodes that are played."""

    def __init__(
        self, session: aiohttp.ClientSession, prefix: str, count: int, gpus: int, ready_after: float
    ) -> None:
        self._session, self._prefix, self._gpus, self._delay = session, prefix, gpus, ready_after
        self._names = [f"{prefix}-{number}" for number in range(count)]
        self._tasks: set[asyncio.Task[Any]] = set()
        self._played: set[tuple[str, bool]] = set()
        self.ready = 0

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Send one request; None where the object is gone or changed."""
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, path, data=data, headers={"Content-Type": kind}) as answer:
            if answer.status in (404, 409):
                return None
            text = await answer.text()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
            return json.loads(text)

    async def create(self) -> None:
        """Make the nodes and say that they are ready."""
        for name in self._names:
            labels = {LABEL: self._prefix, "kubernetes.io/hostname": name, "nvidia.com/gpu.product": PRODUCT}
            meta = {"name": name, "labels": labels}
            spec = {"taints": [{"key": LABEL, "value": self._prefix, "effect": "NoSchedule"}]}
            await self.call("POST", "/api/v1/nodes", {"metadata": meta, "spec": spec})
        await self.renew()

    async def renew(self) -> None:
        """Renew what a kubelet would."""
        amount = {"cpu": "64", "memory": "512Gi", "pods": "1100"}
        if self._gpus:
            amount["nvidia.com/gpu"] = str(self._gpus)
        kinds = (("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"))
        conditions = [
            {"type": kind, "status": value, "reason": "Played", "message": "", "lastHeartbeatTime": now()}
            for kind, value in kinds
        ]
        status = {"capacity": amount, "allocatable": amount, "conditions": conditions}
        for name in self._names:
            path = f"/api/v1/nodes/{name}/status"
            await self.call("PATCH", path, {"status": status}, "application/strategic-merge-patch+json")

    async def keep(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await self.renew()

    async def remove(self) -> None:
        """Take the nodes away."""
        for name in self._names:
            await self.call("DELETE", f"/api/v1/nodes/{name}")

    async def play(self) -> None:
        """Play the kubelet until cancelled."""
        async for pod in self._pods():
            spec, meta, status = pod["spec"], pod["metadata"], pod.get("status") or {}
            if spec.get("nodeName") not in self._names:
                continue
            leaving = "deletionTimestamp" in meta
            if (meta["uid"], leaving) in self._played or (not leaving and status.get("phase") != "Pending"):
                continue
            self._played.add((meta["uid"], leaving))
            task = asyncio.create_task(self._end(pod) if leaving else self._start(pod))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pods(self) -> AsyncIterator[Any]:
        """Yield every pod of the cluster, and again whenever it changes."""
        while True:
            listed = await self.call("GET", "/api/v1/pods")
            for pod in listed["items"]:
                yield pod
            version = listed["metadata"]["resourceVersion"]
            path = f"/api/v1/pods?watch=1&resourceVersion={version}&timeoutSeconds=300"
            async with self._session.get(path, timeout=aiohttp.ClientTimeout(total=None)) as stream:
                pending = b""
                async for chunk in stream.content.iter_any():
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            yield event["object"]

    async def _start(self, pod: Any) -> None:
        await asyncio.sleep(self._delay)
        arguments = [a for container in pod["spec"]["containers"] for a in container.get("args") or ()]
        ready = "never-ready" not in arguments and "crashes" not in arguments
        await self._tell(pod, ready, crashed="crashes" in arguments)
        self.ready += ready

    async def _tell(self, pod: Any, ready: bool, *, crashed: bool = False) -> None:
        running: Any = {"running": {"startedAt": now()}}
        ended = {"exitCode": 1, "reason": "Error", "message": json.dumps(CRASH), "finishedAt": now()}
        state = {"waiting": {"reason": "CrashLoopBackOff"}} if crashed else running
        values = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
        status = {
            "phase": "Running",
            "podIP": "10.255.0.1",
            "startTime": now(),
            "conditions": [
                {"type": kind, "status": str(value), "lastTransitionTime": now()}
                for kind, value in values.items()
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": ready,
                    "started": ready,
                    "restartCount": int(crashed),
                    "state": state,
                    "lastState": {"terminated": ended} if crashed else {},
                }
                for container in pod["spec"]["containers"]
            ],
        }
        path = f"{_path(pod)}/status"
        await self.call("PATCH", path, {"status": status}, "application/strategic-merge-patch+json")

    async def _end(self, pod: Any) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self.call("DELETE", _path(pod), body)


def _path(pod: Any) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


@asynccontextmanager
async def connect(
    connections: int = 32, *, kubeconfig: str | None = None, raw: bool = False
) -> AsyncIterator[aiohttp.ClientSession]:
    """Connect to the API server that a file, else KUBECONFIG, names; `raw` leaves answers compressed."""
    configuration = client.Configuration()
    await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    headers = {"Authorization": word} if (word := configuration.api_key.get("authorization")) else {}
    connector = aiohttp.TCPConnector(limit=connections, ssl=context)
    async with aiohttp.ClientSession(
        configuration.host, connector=connector, headers=headers, auto_decompress=not raw
    ) as session:
        yield session


async def run(prefix: str, count: int, gpus: int, ready_after: float) -> None:
    """Play some nodes until cancelled, and take them away."""
    async with connect() as session:
        nodes = Nodes(session, prefix, count, gpus, ready_after)
        await nodes.create()
        print("ready", flush=True)
        keeping = asyncio.create_task(nodes.keep())
        try:
            await nodes.play()
        finally:
            keeping.cancel()
            await nodes.remove()


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prefix", default="fake")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="nvidia.com/gpu of each node")
    parser.add_argument("--ready-after", type=float, default=0.5, help="seconds until a pod serves")
    given = parser.parse_args()
    try:
        asyncio.run(run(given.prefix, given.nodes, given.gpus, given.ready_after))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
