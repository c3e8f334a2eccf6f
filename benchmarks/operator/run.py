"""The operator against a real API server: many objects at once, a bare client beside it, rest, and a restart.

    python -m benchmarks.operator.run --objects 1000 --out figures.json

Needs KUBECONFIG (`python3 -m e2e.cluster kubeconfig`) with the CRDs applied, and no other operator at work.
Pods are real, the kubelets under them are played (`e2e.fake_nodes`). Everything runs on this machine, so API
server, controllers, scheduler and operator share its cores; the bare client writes the same children.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from e2e.fake_nodes import Nodes, connect

from slipway_operator.kinds import DEPLOYMENT, PARENT, PER_REVISION, SINGLE, key_of
from slipway_operator.plan import Installation, Plan, World, make_plan

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/slipway/engine:none"
AT_ONCE = 16
METRICS = 18391
PATIENCE = 600.0

Figures = dict[str, Any]


def model(namespace: str, number: int, lab: str) -> Figures:
    """Return one LLMDeployment whose pod goes to a played node."""
    pod = {
        "nodeSelector": {"slipway.dev/fake": lab},
        "tolerations": [{"key": "slipway.dev/fake", "operator": "Exists"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}},
    }
    return {
        "apiVersion": PARENT.api_version,
        "kind": PARENT.kind,
        "metadata": {"name": f"m{number}", "namespace": namespace},
        "spec": {"model": {"source": "file:///models/none.gguf"}, "podTemplate": pod},
    }


async def send(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None, kind: str = ""
) -> Any:
    """Send one request and return the answer. Raises RuntimeError."""
    headers = {"Content-Type": kind or "application/json"}
    data = None if body is None else json.dumps(body)
    async with session.request(method, path, data=data, headers=headers) as answer:
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


async def bare(session: aiohttp.ClientSession, namespace: str, count: int, lab: str) -> float:
    """Write the children of `count` objects as a client that does nothing else; return the seconds."""

    async def write(number: int) -> None:
        parent = model(namespace, number, lab)
        parent["metadata"]["uid"] = str(uuid.uuid4())
        plan = make_plan(World(parent), Installation(IMAGE), time.time())
        assert isinstance(plan, Plan)
        for kind, child in plan.children:
            child["metadata"].pop("ownerReferences")
            path = kind.path(namespace, key_of(child).name)
            await send(session, "PATCH", f"{path}?fieldManager=bare", child, "application/apply-patch+yaml")

    started = time.perf_counter()
    await all_at_once([lambda number=number: write(number) for number in range(count)])
    return time.perf_counter() - started


@asynccontextmanager
async def operator(namespace: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the operator of this checkout for one namespace until it is ready, and end it afterwards."""
    words = ["run", "--namespace", namespace, "--lease-namespace", namespace, "--engine-image", IMAGE]
    ports = ["--host", "127.0.0.1", "--health-port", str(METRICS + 1), "--metrics-port", str(METRICS)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "slipway_operator", *words, *ports, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: ready(METRICS + 1), 60)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def ready(port: int) -> bool:
    """Return whether the operator says that it is ready."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/readyz") as answer,
        ):
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def until(probe: Callable[[], Any], patience: float = PATIENCE, every: float = 0.2) -> float:
    """Wait until `probe` is true; return the seconds it took. Raises TimeoutError."""
    started = time.perf_counter()
    async with asyncio.timeout(patience):
        while not await probe():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(every)
    return time.perf_counter() - started


async def metrics() -> dict[str, float]:
    """Return the operator's metrics by name and labels."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{METRICS}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}


def quantile(seen: Mapping[str, float], part: float) -> float:
    """Return the upper bound of the bucket of the reconcile histogram that holds a quantile, in seconds."""
    buckets: dict[float, float] = {}
    for name, value in seen.items():
        found = re.match(r'slipway_operator_reconcile_seconds_bucket\{.*le="([^"]+)"', name)
        if found:
            bound = float(found.group(1).replace("+Inf", "inf"))
            buckets[bound] = buckets.get(bound, 0.0) + value
    total = max(buckets.values(), default=0.0)
    return next((bound for bound, value in sorted(buckets.items()) if value >= part * total), 0.0)


def reconciles(seen: Mapping[str, float]) -> float:
    """Return the number of reconciles."""
    return sum(v for name, v in seen.items() if name.startswith("slipway_operator_reconcile_seconds_count"))


def writes(seen: Mapping[str, float]) -> dict[str, float]:
    """Return the writes by resource, the Lease's aside."""
    found: dict[str, float] = {}
    for name, value in seen.items():
        match = re.match(r'slipway_operator_api_requests_total\{.*resource="([^"]+)".*verb="(\w+)"', name)
        if match and match.group(2) in ("apply", "create", "update", "delete") and match.group(1) != "leases":
            found[match.group(1)] = found.get(match.group(1), 0.0) + value
    return found


def spent(pid: int) -> tuple[float, float]:
    """Return a process's CPU seconds and its largest resident size in MiB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return ticks / os.sysconf("SC_CLK_TCK"), int(peak.group(1)) / 1024 if peak else 0.0


async def count(session: aiohttp.ClientSession, path: str, holds: Callable[[Any], bool]) -> int:
    """Return how many objects of a list hold."""
    listed = await send(session, "GET", path)
    return sum(holds(item) for item in listed["items"])


def reconciled(obj: Any) -> bool:
    """Return whether an object's status is current."""
    return (obj.get("status") or {}).get("observedGeneration") == obj["metadata"]["generation"]


def serves(obj: Any) -> bool:
    """Return whether an object is Ready."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def latency(session: aiohttp.ClientSession, namespace: str, number: int, lab: str) -> float:
    """Return the seconds from creating one object until its Deployment is there."""
    started = time.perf_counter()
    await send(session, "POST", PARENT.path(namespace), model(namespace, number, lab))
    selector = f"?labelSelector=slipway.dev/deployment%3Dm{number}"
    path = DEPLOYMENT.path(namespace) + selector
    while not (await send(session, "GET", path))["items"]:  # noqa: ASYNC110 - the API server's, not ours
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


async def measure(session: aiohttp.ClientSession, amount: int, rest_seconds: float) -> Figures:
    """Run everything once."""
    lab = f"bench-{uuid.uuid4().hex[:6]}"
    nodes = Nodes(session, lab, 2 + 2 * amount // 1000, 0, 0.1)
    await nodes.create()
    playing = [asyncio.create_task(nodes.play()), asyncio.create_task(nodes.keep())]
    spaces = [f"{lab}-bare", f"{lab}-op"]
    for name in spaces:
        await send(session, "POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        figures: Figures = {"objects": amount, "cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
        figures["bare_seconds"] = await bare(session, spaces[0], amount, lab)
        await until(lambda: _pods_run(session, spaces[0], amount))
        await send(session, "DELETE", f"/api/v1/namespaces/{spaces[0]}")
        await until(lambda: _gone(session, spaces[0]), every=2)
        figures |= await _operated(session, spaces[1], amount, lab, rest_seconds)
        return figures
    finally:
        for name in spaces:
            await nodes.call("DELETE", f"/api/v1/namespaces/{name}")
        await until(lambda: _gone(session, spaces[1]), every=2)
        for task in playing:
            task.cancel()
        await nodes.remove()


async def _pods_run(session: aiohttp.ClientSession, namespace: str, amount: int) -> bool:
    path = f"/api/v1/namespaces/{namespace}/pods"
    return await count(session, path, lambda pod: pod["status"].get("phase") == "Running") >= amount


async def _gone(session: aiohttp.ClientSession, namespace: str) -> bool:
    async with session.get(f"/api/v1/namespaces/{namespace}") as answer:
        return answer.status == 404


async def _operated(
    session: aiohttp.ClientSession, namespace: str, amount: int, lab: str, rest_seconds: float
) -> Figures:
    figures: Figures = {}
    path = PARENT.path(namespace)
    async with operator(namespace) as process:
        waits = sorted([await latency(session, namespace, amount + n, lab) for n in range(20)])
        figures["deployment_after_seconds"] = {"p50": waits[10], "p95": waits[18]}
        figures["memory_mib_before"] = spent(process.pid)[1]
        before = await metrics()
        started, cpu = time.perf_counter(), spent(process.pid)[0]
        jobs = [model(namespace, number, lab) for number in range(amount)]
        await all_at_once([lambda body=body: send(session, "POST", path, body) for body in jobs])
        figures["created_seconds"] = time.perf_counter() - started
        total = amount + len(waits)
        await until(lambda: _all(session, path, total, reconciled), every=0.5)
        figures["reconciled_seconds"] = time.perf_counter() - started
        for kind in (*SINGLE, *PER_REVISION):
            there = await count(session, kind.path(namespace), lambda obj: True)
            assert there >= total, f"{there} {kind.plural}"
        await until(lambda: _all(session, path, total, serves), every=1)
        figures["all_ready_seconds"] = time.perf_counter() - started
        await asyncio.sleep(5)
        seen = await metrics()
        figures["reconcile_seconds_at_most"] = {f"p{p}": quantile(seen, p / 100) for p in (50, 95, 99)}
        figures["reconciles_per_object"] = (reconciles(seen) - reconciles(before)) / amount
        wrote = {k: (v - writes(before).get(k, 0.0)) / amount for k, v in writes(seen).items()}
        figures["writes_per_object"] = {**wrote, "all": sum(wrote.values())}
        figures["cpu_seconds"] = spent(process.pid)[0] - cpu
        figures["memory_mib"] = spent(process.pid)[1]
        figures["rest"] = await _at_rest(process.pid, rest_seconds)
    figures["restart"] = await _restarted(namespace, total)
    return figures


async def _all(session: aiohttp.ClientSession, path: str, total: int, holds: Callable[[Any], bool]) -> bool:
    return await count(session, path, holds) >= total


async def _at_rest(pid: int, seconds: float) -> Figures:
    """Return what the operator does while nothing happens."""
    cpu, before = spent(pid)[0], await metrics()
    await asyncio.sleep(seconds)
    after = await metrics()
    return {
        "seconds": seconds,
        "cores": (spent(pid)[0] - cpu) / seconds,
        "writes": sum(writes(after).values()) - sum(writes(before).values()),
    }


async def _restarted(namespace: str, total: int) -> Figures:
    """Return how long another start takes to the first reconcile, and until each object had one."""
    started = time.perf_counter()
    async with operator(namespace) as process:

        async def reached(wanted: int) -> bool:
            return reconciles(await metrics()) >= wanted

        await until(lambda: reached(1), every=0.05)
        first = time.perf_counter() - started
        await until(lambda: reached(total), every=0.1)
        quiet = time.perf_counter() - started
        return {
            "first_reconcile_seconds": first,
            "all_reconciled_seconds": quiet,
            "writes": sum(writes(await metrics()).values()),
            "memory_mib": spent(process.pid)[1],
        }


async def run(amount: int, rest_seconds: float) -> str:
    """Measure, and return the figures as JSON."""
    async with connect(connections=64) as session:
        figures = await measure(session, amount, rest_seconds)
    figures["times_a_bare_client"] = figures["reconciled_seconds"] / figures["bare_seconds"]
    return json.dumps(figures, indent=2)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--rest-seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = asyncio.run(run(given.objects, given.rest_seconds))
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
