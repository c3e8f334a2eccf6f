"""Plain requests to the API server, and watches that note when something came true."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from slipway_operator.kinds import DEPLOYMENT, PARENT

# As many objects at a time as the operator has workers.
AT_ONCE = 16
PATIENCE = 1200.0
METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


async def send(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None, kind: str = "application/json"
) -> Any:
    """Send one request and return the answer. Raises RuntimeError."""
    data = None if body is None else json.dumps(body)
    async with session.request(method, path, data=data, headers={"Content-Type": kind}) as answer:
        text = await answer.text()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
        return json.loads(text)


async def all_at_once(jobs: list[Callable[[], Any]]) -> None:
    """Run jobs, so many at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(job: Callable[[], Any]) -> None:
        async with gate:
            await job()

    await asyncio.gather(*(one(job) for job in jobs))


async def until(probe: Callable[[], Any], patience: float = PATIENCE, every: float = 0.1) -> float:
    """Wait until `probe` is true; return the seconds it took. Raises TimeoutError."""
    started = time.perf_counter()
    async with asyncio.timeout(patience):
        while not await probe():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(every)
    return time.perf_counter() - started


def reconciled(obj: Any) -> bool:
    """Return whether an object's status is current."""
    return bool((obj.get("status") or {}).get("observedGeneration") == obj["metadata"].get("generation"))


def serves(obj: Any) -> bool:
    """Return whether an object is Ready."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class Seen:
    """When each LLMDeployment of a namespace came to be what, by the watches of one client.

    Lists of a thousand objects again and again would keep the API server busier than what is measured.
    """

    def __init__(self, session: aiohttp.ClientSession, namespace: str) -> None:
        self._session, self._namespace = session, namespace
        self.reconciled: dict[str, float] = {}
        self.ready: dict[str, float] = {}
        self.deployed: dict[str, float] = {}

    async def objects(self) -> None:
        """Follow the LLMDeployments until cancelled."""
        async for obj in self._follow(PARENT.path(self._namespace)):
            name, now = obj["metadata"]["name"], time.perf_counter()
            if reconciled(obj):
                self.reconciled.setdefault(name, now)
            if serves(obj):
                self.ready.setdefault(name, now)

    async def deployments(self) -> None:
        """Follow their Deployments until cancelled."""
        async for obj in self._follow(DEPLOYMENT.path(self._namespace), METADATA):
            name = obj["metadata"]["labels"]["slipway.dev/deployment"]
            self.deployed.setdefault(name, time.perf_counter())

    async def have(self, which: dict[str, float], count: int) -> float:
        """Wait until so many are in `which`; return when the last one came."""

        async def there() -> bool:
            return len(which) >= count

        await until(there)
        return max(which.values())

    async def _follow(self, path: str, accept: str = "application/json") -> AsyncIterator[Any]:
        """Yield every object and each of its changes; a watch that ends begins anew with a list."""
        while True:
            async with self._session.get(path, headers={"Accept": accept.format("List")}) as answer:
                listed = await answer.json()
            if answer.status != 200:
                await asyncio.sleep(1)
                continue
            for obj in listed["items"] or ():
                yield obj
            version = listed["metadata"]["resourceVersion"]
            watch = f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=3600"
            try:
                async for event in self._stream(watch, accept.format("")):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] != "DELETED":
                        yield event["object"]
            except aiohttp.ClientError:
                continue

    async def _stream(self, path: str, accept: str) -> AsyncIterator[Any]:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path, timeout=timeout, headers={"Accept": accept}) as stream:
            pending = b""
            async for chunk in stream.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)
