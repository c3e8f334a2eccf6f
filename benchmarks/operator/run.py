"""The operator against a real API server: many objects at once, rest, failover, restart, and a bare client.

    python -m benchmarks.operator.run --objects 1000 --out figures.json

Needs KUBECONFIG (`python3 -m e2e.cluster kubeconfig`) with the CRDs applied, and no other operator at work.
Pods are real, the kubelets under them are played (`e2e.fake_nodes`). Everything runs on this machine, so API
server, controllers, scheduler, operator and this client share its cores. The bare client writes the same
objects in the same run: each LLMDeployment and its children, rendered beforehand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
import uuid
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from benchmarks.operator.api import Seen, all_at_once, send, until
from benchmarks.operator.bare import model
from benchmarks.operator.process import ROOT, Operator, operator, quantile, reconciles, requests, writes
from e2e.fake_nodes import Nodes, connect

from slipway_operator.kinds import DEPLOYMENT, PARENT, PER_REVISION, SINGLE

SINGLE_ONES = 20
TELL_SECONDS = 10.0

Figures = dict[str, Any]


async def bare(namespace: str, count: int, lab: str) -> Figures:
    """Write `count` objects and their children by a process that does nothing else."""
    words = ["--namespace", namespace, "--objects", str(count), "--lab", lab]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.operator.bare", *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the bare client ended with status {process.returncode}; its words are above")
    figures: Figures = json.loads(said)
    return figures


async def burst(
    session: aiohttp.ClientSession,
    ran: Operator,
    seen: Seen,
    namespace: str,
    amount: int,
    lab: str,
    brief: bool,
) -> Figures:
    """Apply many objects at once; return how long they, and what they, take."""
    path = PARENT.path(namespace)
    before, cpu, memory = await ran.metrics(), ran.spent()[0], ran.spent()[1]
    posted: dict[str, float] = {}

    async def create(number: int) -> None:
        await send(session, "POST", path, model(namespace, number, lab))
        posted[f"m{number}"] = time.perf_counter()

    started = time.perf_counter()
    await all_at_once([partial(create, number) for number in range(amount)])
    figures: Figures = {"memory_mib_before": memory, "created_seconds": time.perf_counter() - started}
    telling = asyncio.create_task(_tell(seen, amount))
    figures["reconciled_seconds"] = await seen.have(seen.reconciled, amount) - started
    telling.cancel()
    came = sorted(at - started for at in seen.reconciled.values())
    fifth = max(1, amount // 5)
    figures["reconciled_after_seconds"] = {n: came[n - 1] for n in range(fifth, amount + 1, fifth)}
    figures["cpu_seconds_reconciled"] = ran.spent()[0] - cpu
    for kind in (*SINGLE, *PER_REVISION):
        listed = (await send(session, "GET", f"{kind.path(namespace)}?limit=1"))["metadata"]
        assert 1 + listed.get("remainingItemCount", 0) >= amount, f"{kind.plural} are missing"
    await seen.have(seen.deployed, amount)
    figures["deployment_after_seconds"] = spread([seen.deployed[n] - at for n, at in posted.items()])
    figures["status_after_seconds"] = spread([seen.reconciled[n] - at for n, at in posted.items()])
    if not brief:
        figures["all_ready_seconds"] = await seen.have(seen.ready, amount) - started
        figures["quiet_seconds"] = await ran.quiet() - started
    after = await ran.metrics()
    parts = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    figures["reconcile_seconds"] = {name: quantile(after, before, part) for name, part in parts.items()}
    figures["reconciles_per_object"] = (reconciles(after) - reconciles(before)) / amount
    sent, was = requests(after), requests(before)
    per_object = {name: (count - was.get(name, 0.0)) / amount for name, count in sent.items()}
    figures["requests_per_object"] = {name: count for name, count in per_object.items() if count}
    figures["writes_per_object"] = (writes(after) - writes(before)) / amount
    figures["cpu_seconds"] = ran.spent()[0] - cpu
    figures["memory_mib"] = ran.spent()[1]
    return figures


async def _tell(seen: Seen, amount: int) -> None:
    """Say every now and then how far it has come."""
    started = time.perf_counter()
    while True:
        await asyncio.sleep(TELL_SECONDS)
        took = time.perf_counter() - started
        print(f"{len(seen.reconciled)} of {amount} reconciled after {took:.0f} s", file=sys.stderr)


def spread(values: list[float]) -> Figures:
    """Return the middle and the tail of some values."""
    ordered = sorted(values)
    return {f"p{part}": ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 95, 99)}


async def deployed_after(session: aiohttp.ClientSession, namespace: str, number: int, lab: str) -> float:
    """Return the seconds from creating one object until its Deployment is there."""
    started = time.perf_counter()
    await send(session, "POST", PARENT.path(namespace), model(namespace, number, lab))
    path = f"{DEPLOYMENT.path(namespace)}?labelSelector=slipway.dev/deployment%3Dm{number}"

    async def there() -> bool:
        return bool((await send(session, "GET", path))["items"])

    await until(there, every=0.02)
    return time.perf_counter() - started


async def at_rest(ran: Operator, seconds: float) -> Figures:
    """Return what the operator does while nothing happens."""
    cpu, before, started = ran.spent()[0], await ran.metrics(), time.perf_counter()
    await asyncio.sleep(seconds)
    after, took = await ran.metrics(), time.perf_counter() - started
    lists = sum(count for name, count in requests(after).items() if name.startswith("list"))
    lists -= sum(count for name, count in requests(before).items() if name.startswith("list"))
    cores = (ran.spent()[0] - cpu) / took
    return {"seconds": took, "cores": cores, "writes": writes(after) - writes(before), "lists": lists}


async def taken_over(
    session: aiohttp.ClientSession, ran: Operator, namespace: str, number: int, lab: str, started: float
) -> Figures:
    """Return how an operator that follows another at `started` gets to work, and until it is quiet."""
    await deployed_after(session, namespace, number, lab)
    useful = time.perf_counter() - started
    quiet = await ran.quiet() - started
    seen = await ran.metrics()
    return {
        "first_deployment_seconds": useful,
        "quiet_seconds": quiet,
        "reconciles": reconciles(seen),
        "writes": writes(seen),
        "memory_mib": ran.spent()[1],
    }


async def operated(
    session: aiohttp.ClientSession, namespace: str, amount: int, lab: str, given: argparse.Namespace
) -> Figures:
    """Return everything that is measured of operators."""
    figures: Figures = {}
    log = given.log.fileno() if given.log else asyncio.subprocess.DEVNULL
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(operator(namespace, log=log))
        seen = Seen(session, namespace)
        following = [asyncio.create_task(seen.objects()), asyncio.create_task(seen.deployments())]
        await asyncio.sleep(1)
        measuring = burst(session, first, seen, namespace, amount, lab, given.burst_only)
        figures["burst"] = await first.during(measuring)
        for task in following:
            task.cancel()
        if given.burst_only:
            return figures
        waits = [await deployed_after(session, namespace, amount + n, lab) for n in range(SINGLE_ONES)]
        figures["one_by_one_deployment_after_seconds"] = spread(waits)
        await first.quiet()
        figures["rest"] = await at_rest(first, given.rest_seconds)
        second = await stack.enter_async_context(operator(namespace, 18491, log=log))
        await asyncio.sleep(2)
        killed = time.perf_counter()
        await first.kill()
        number = amount + SINGLE_ONES
        figures["failover"] = await taken_over(session, second, namespace, number, lab, killed)
    stopped = time.perf_counter()
    interval = max(1, int(given.rest_seconds))
    async with operator(namespace, relist_seconds=interval, log=log) as third:
        figures["restart"] = await taken_over(session, third, namespace, number + 1, lab, stopped)
        figures["rest_with_a_relist"] = await at_rest(third, interval + 5.0)
    return figures


async def measure(session: aiohttp.ClientSession, given: argparse.Namespace) -> Figures:
    """Run everything once."""
    amount: int = given.objects
    lab = f"bench-{uuid.uuid4().hex[:6]}"
    nodes = Nodes(session, lab, 2 + 2 * amount // 1000, 0, 0.1)
    await nodes.create()
    playing = [asyncio.create_task(nodes.play()), asyncio.create_task(nodes.keep())]
    spaces = [f"{lab}-op", f"{lab}-bare"]
    for name in spaces:
        await send(session, "POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        figures = {"objects": amount, **await _machine(session)}
        figures |= await operated(session, spaces[0], amount, lab, given)
        figures["bare"] = await bare(spaces[1], min(amount, given.bare), lab)
        each = figures["bare"]["seconds"] / figures["bare"]["objects"]
        figures["times_a_bare_client"] = figures["burst"]["reconciled_seconds"] / amount / each
        return figures
    finally:
        for name in spaces:
            await nodes.call("DELETE", f"/api/v1/namespaces/{name}")
        for name in spaces if not given.leave else ():
            await until(partial(_gone, session, name), every=2)
        for task in playing:
            task.cancel()
        await nodes.remove()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "?")


async def _machine(session: aiohttp.ClientSession) -> Figures:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "kubernetes": (await send(session, "GET", "/version"))["gitVersion"],
    }


async def _gone(session: aiohttp.ClientSession, namespace: str) -> bool:
    async with session.get(f"/api/v1/namespaces/{namespace}") as answer:
        return answer.status == 404


async def run(given: argparse.Namespace) -> str:
    """Measure, and return the figures as JSON."""
    async with connect(connections=64) as session:
        figures = await measure(session, given)
    return json.dumps(figures, indent=2, default=str)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--bare", type=int, default=1000, help="at most so many objects of the bare client")
    parser.add_argument("--rest-seconds", type=float, default=60.0)
    parser.add_argument("--burst-only", action="store_true", help="end once all objects are reconciled")
    parser.add_argument("--leave", action="store_true", help="do not wait until the namespaces are gone")
    parser.add_argument("--log", type=argparse.FileType("ab"), help="file for the operators' logs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = asyncio.run(run(given))
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
