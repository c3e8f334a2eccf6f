"""The long poll: a first held request wakes at once, what is not known is not zero, strangers get nowhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipway_operator.errors import Retryable
from slipway_operator.kinds import Key
from slipway_operator.signals import holds
from slipway_operator.signals.holds import GatewayHolds, addresses, read

KEY = Key("team", "chat")


class Gateway:
    """A gateway's side of the poll, over real HTTP."""

    def __init__(self) -> None:
        self.sequence, self.held = 0, {}
        self.changed, self.asked = asyncio.Event(), []
        self.status = 200

    def holds(self, **held: int) -> None:
        self.held, self.sequence = held, self.sequence + 1
        self.changed.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((dict(request.query), request.headers.get("Authorization")))
        if self.status != 200:
            return web.Response(status=self.status)
        if self.sequence <= int(request.query["after"]) and self.asked[1:]:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), float(request.query["waitSeconds"]))
        entries = [
            {"namespace": "team", "name": name, "requests": count, "oldestSeconds": 0.1}
            for name, count in self.held.items()
        ]
        return web.json_response({"sequence": self.sequence, "held": entries})


class Slices:
    def __init__(self) -> None:
        self.ports: list[int] = []
        self.away = False

    async def list(self, kind: Any, namespace: str | None, *, labels: str | None = None) -> Any:
        assert (kind.plural, namespace) == ("endpointslices", "system")
        assert labels == "kubernetes.io/service-name=gateway-metrics"
        if self.away:
            raise Retryable("the API server is away")
        return [
            {"ports": [{"name": "admin", "port": port}], "endpoints": [{"addresses": ["127.0.0.1"]}]}
            for port in self.ports
        ], 1


async def until(condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to pass")


@pytest.fixture
async def running(tmp_path, monkeypatch):
    monkeypatch.setattr(holds, "FIND_SECONDS", 0.01)
    monkeypatch.setattr(holds, "RETRY_SECONDS", 0.01)
    token, slices, woken, gateway = tmp_path / "token", Slices(), [], Gateway()
    token.write_text("first\n")
    application = web.Application()
    application.router.add_get("/internal/v1/holds", gateway.answer)
    now = [0.0]
    async with TestServer(application) as server:
        slices.ports = [server.port]
        asking = GatewayHolds(slices, Key("system", "gateway-metrics"), token, woken.extend, lambda: now[0])
        task = asyncio.create_task(asking.run())
        yield asking, gateway, slices, woken, token, now
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_first_held_request_wakes_at_once_and_others_only_count(running):
    asking, gateway, _, woken, _, _ = running
    assert asking.held(KEY) is None
    await until(lambda: asking.held(KEY) == 0)
    gateway.holds(chat=1)
    await until(lambda: woken == [KEY])
    assert asking.held(KEY) == 1
    gateway.holds(chat=4)
    await until(lambda: asking.held(KEY) == 4)
    gateway.holds()
    await until(lambda: asking.held(KEY) == 0)
    assert woken == [KEY]


async def test_the_token_is_read_again_and_goes_along(running):
    _, gateway, _, _, token, _ = running
    await until(lambda: gateway.asked)
    assert gateway.asked[0][1] == "Bearer first"
    token.write_text("second")
    gateway.holds(chat=1)
    await until(lambda: gateway.asked[-1][1] == "Bearer second")


async def test_a_gateway_that_falls_silent_is_unknown_and_one_that_is_gone_is_not_missed(running):
    asking, gateway, slices, _, _, now = running
    await until(lambda: asking.held(KEY) == 0)
    gateway.status = 401
    gateway.holds()
    now[0] = 100.0
    await until(lambda: asking.held(KEY) is None)
    gateway.status = 200
    await until(lambda: asking.held(KEY) == 0)
    slices.away = True
    await asyncio.sleep(0.05)
    assert asking.held(KEY) == 0  # what is known stays known
    slices.away, slices.ports = False, []
    await until(lambda: asking.held(KEY) is None)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"held": []}', b'{"sequence": true, "held": []}', b'{"sequence": -1, "held": []}'],
)
def test_what_is_no_answer_is_refused(body):
    with pytest.raises(ValueError):
        read(body)


def test_entries_that_are_none_are_left_out():
    body = (
        b'{"sequence": 3, "held": [1, {"namespace": "a"}, {"namespace": "a", "name": "b", "requests": "9"},'
        b' {"namespace": 1, "name": "b", "requests": 1}, {"namespace": "a", "name": "c", "requests": 2}]}'
    )
    assert read(body) == (3, {Key("a", "c"): 2})


def test_only_addresses_of_the_admin_port_are_dialled():
    slices = [
        {"ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]},
        {"ports": [{"name": "admin", "port": 9090}], "endpoints": [{"addresses": ["10.0.0.2", "evil.host"]}]},
        {"ports": [{"name": "admin", "port": 9090}], "endpoints": [{"addresses": ["fd00::1"]}]},
        {},
    ]
    assert addresses(slices) == ["http://10.0.0.2:9090", "http://[fd00::1]:9090"]
