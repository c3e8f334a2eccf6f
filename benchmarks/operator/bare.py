"""A client that does nothing but write LLMDeployments and their children: what the operator is compared with.

    python -m benchmarks.operator.bare --namespace NS --objects 1000 --lab LAB

A process of its own, as the operator is one, so that nothing else of the benchmark slows it down. The
children are rendered before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from functools import partial
from typing import Any

import aiohttp
from benchmarks.operator.api import all_at_once, send
from benchmarks.operator.process import IMAGE
from e2e.fake_nodes import connect

from slipway_operator.kinds import PARENT, key_of
from slipway_operator.plan import Installation, Plan, World, make_plan


def model(namespace: str, number: int, lab: str) -> dict[str, Any]:
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


async def write(session: aiohttp.ClientSession, namespace: str, count: int, lab: str) -> dict[str, Any]:
    """Write `count` objects and their children."""

    async def one(objects: list[tuple[str, Any]]) -> None:
        for path, body in objects:
            await send(session, "PATCH", f"{path}?fieldManager=bare", body, "application/apply-patch+yaml")

    jobs = [_rendered(namespace, number, lab) for number in range(count)]
    started, cpu = time.perf_counter(), time.process_time()
    await all_at_once([partial(one, objects) for objects in jobs])
    return {
        "objects": count,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "writes_per_object": len(jobs[0]),
    }


def _rendered(namespace: str, number: int, lab: str) -> list[tuple[str, Any]]:
    parent = model(namespace, number, lab)
    planned = {**parent, "metadata": {**parent["metadata"], "uid": str(uuid.uuid4())}}
    plan = make_plan(World(planned), Installation(IMAGE), time.time())
    assert isinstance(plan, Plan)
    for _, child in plan.children:
        child["metadata"].pop("ownerReferences")
    objects = [(PARENT, parent), *plan.children]
    return [(kind.path(namespace, key_of(obj).name), obj) for kind, obj in objects]


async def run(given: argparse.Namespace) -> str:
    """Write everything, and return the figures as JSON."""
    async with connect(connections=64) as session:
        return json.dumps(await write(session, given.namespace, given.objects, given.lab))


def main() -> None:
    """Write the objects into a namespace that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--objects", type=int, required=True)
    parser.add_argument("--lab", required=True, help="label of the played nodes")
    print(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
