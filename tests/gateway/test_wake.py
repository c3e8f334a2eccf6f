"""A request at a deployment at zero, seen by the operator's own poll: both ends of it are the real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from slipway_operator.kinds import Key
from slipway_operator.signals.holds import GatewayHolds

from .conftest import OPERATOR, Start, from_zero, until

ROUNDS = 20


class Slices:
    """An API server that knows one gateway."""

    def __init__(self, port: int) -> None:
        endpoints = [{"addresses": ["127.0.0.1"]}]
        self._slice = {"ports": [{"name": "admin", "port": port}], "endpoints": endpoints}

    async def list(self, kind: Any, namespace: Any, *, labels: Any = None) -> tuple[list[Any], int]:
        return [self._slice], 1


async def test_the_operator_hears_of_a_first_request_at_once(start: Start, tmp_path: Path):
    cluster = await start(holds_reader=OPERATOR)
    cluster.kube.users["good"] = OPERATOR
    token = tmp_path / "token"
    token.write_text("good\n")
    await cluster.deploy(from_zero())
    woken: list[tuple[float, Collection[Key]]] = []
    service = Key("slipway-system", "slipway-gateway-metrics")
    holds = GatewayHolds(
        Slices(cluster.gateway.admin_port),  # type: ignore[arg-type]
        service,
        token,
        lambda keys: woken.append((time.monotonic(), keys)),
    )
    running = asyncio.create_task(holds.run())
    key, waits = Key("team-a", "chat"), []
    await until(lambda: holds.held(key) == 0)
    for number in range(ROUNDS):
        sent = time.monotonic()
        request = asyncio.create_task(cluster.chat())
        await until(lambda number=number: len(woken) > number)
        waits.append(woken[-1][0] - sent)
        assert set(woken[-1][1]) == {key}
        assert holds.held(key) == 1
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(lambda: holds.held(key) == 0)
    assert len(woken) == ROUNDS
    assert sorted(waits)[int(0.95 * ROUNDS)] < 1.0, waits
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
