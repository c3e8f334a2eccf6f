"""The requests that gateways hold: one long poll a gateway pod, so that a first one wakes at once.

Gateways write nothing to the API server; the operator's leader asks each of them, with its own
service-account token of an audience that only gateways accept. The addresses are those of the EndpointSlices
of the gateway's Service, which the installation names. A gateway that does not answer says nothing: what it
holds is unknown, never zero.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeGuard

import aiohttp

from slipway_operator.errors import OperatorError
from slipway_operator.kinds import ENDPOINT_SLICE, Key, Kind, Object
from slipway_operator.signals.bodies import bounded

PORT_NAME: Final = "admin"
PATH: Final = "/internal/v1/holds"
FIND_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 25
WATCHFUL_SECONDS: Final = 3
"""While something is held, its number is asked for this often."""
SILENT_SECONDS: Final = 40.0
RETRY_SECONDS: Final = 1.0
MAX_ANSWER: Final = 1 << 20
MAX_REQUESTS: Final = 1_000_000

logger = logging.getLogger(__name__)


class Api(Protocol):
    """The part of the API client that finds gateways."""

    def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None
    ) -> Awaitable[tuple[list[Object], int]]:
        """Return all objects of a kind."""


@dataclass
class _Gateway:
    """One gateway pod: what it held when it last answered, and when that was."""

    task: asyncio.Task[None] | None = None
    sequence: int = 0
    held: Mapping[Key, int] = field(default_factory=dict)
    answered: float = float("-inf")


class GatewayHolds:
    """Asks the gateways behind one Service."""

    def __init__(
        self,
        api: Api,
        service: Key,
        token_file: Path,
        wake: Callable[[Collection[Key]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._service, self._token_file = api, service, token_file
        self._wake, self._clock = wake, clock
        self._gateways: dict[str, _Gateway] = {}

    def held(self, key: Key) -> float | None:
        """Return the requests held for an object; None where a gateway that might hold some does not say."""
        now = self._clock()
        known = [one for one in self._gateways.values() if now - one.answered < SILENT_SECONDS]
        total = sum(one.held.get(key, 0) for one in known)
        return float(total) if total or (known and len(known) == len(self._gateways)) else None

    async def run(self) -> None:
        """Find gateways and ask them, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=WAIT_SECONDS + 10, sock_connect=3)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
                while True:
                    await self._find(session)
                    await asyncio.sleep(FIND_SECONDS)
        finally:
            for gateway in self._gateways.values():
                if gateway.task is not None:
                    gateway.task.cancel()

    async def _find(self, session: aiohttp.ClientSession) -> None:
        try:
            labels = f"kubernetes.io/service-name={self._service.name}"
            slices, _ = await self._api.list(ENDPOINT_SLICE, self._service.namespace, labels=labels)
        except OperatorError as error:
            logger.warning("the gateways cannot be listed: %s", error, extra={"object": self._service})
            return
        found = set(addresses(slices))
        for url in self._gateways.keys() - found:
            gone = self._gateways.pop(url)
            if gone.task is not None:
                gone.task.cancel()
        for url in found - self._gateways.keys():
            gateway = self._gateways[url] = _Gateway()
            gateway.task = asyncio.create_task(self._poll(session, url, gateway), name=f"holds of {url}")

    async def _poll(self, session: aiohttp.ClientSession, url: str, gateway: _Gateway) -> None:
        told = ""
        while True:
            problem = await self._ask(session, url, gateway)
            if problem and problem != told:
                logger.warning("the gateway at %s: %s", url, problem, extra={"object": self._service})
            told = problem
            if problem:
                await asyncio.sleep(RETRY_SECONDS)

    async def _ask(self, session: aiohttp.ClientSession, url: str, gateway: _Gateway) -> str:
        """Poll once; return why that did not work, empty where it did."""
        wait = WATCHFUL_SECONDS if gateway.held else WAIT_SECONDS
        first = gateway.answered == float("-inf")
        params = {"after": str(gateway.sequence), "waitSeconds": str(0 if first else wait)}
        try:
            token = (await asyncio.to_thread(self._token_file.read_text)).strip()
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(
                url + PATH, params=params, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    return f"it answers {answer.status} to {PATH}"
                body = await bounded(answer.content, MAX_ANSWER)
                if body is None:
                    raise ValueError(f"an answer of more than {MAX_ANSWER} bytes")
                found = read(body)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        before, gateway.held = gateway.held, found[1]
        gateway.sequence, gateway.answered = found[0], self._clock()
        news = gateway.held.keys() - before.keys()
        if news:
            self._wake(news)
        return ""


def read(body: bytes) -> tuple[int, Mapping[Key, int]]:
    """Return a poll's answer: its sequence, and the requests held by object. Raises ValueError."""
    value: Any = json.loads(body)
    if not isinstance(value, dict) or not isinstance(value.get("held"), list):
        raise ValueError("an answer without a list of what is held")
    sequence: Any = value.get("sequence")
    if not _whole_number(sequence):
        raise ValueError("an answer without a sequence")
    held: dict[Key, int] = {}
    for entry in value["held"]:
        with contextlib.suppress(TypeError, KeyError):
            key, count = Key(entry["namespace"], entry["name"]), entry["requests"]
            if all(isinstance(part, str) for part in key) and _whole_number(count) and count:
                held[key] = min(count, MAX_REQUESTS)
    return sequence, held


def addresses(slices: Collection[Object]) -> list[str]:
    """Return the URLs of the admin ports in a Service's EndpointSlices, of pods that leave too."""
    found = []
    for one in slices:
        ports = [port.get("port") for port in one.get("ports") or () if port.get("name") == PORT_NAME]
        for endpoint in one.get("endpoints") or () if ports else ():
            for address in endpoint.get("addresses") or ():
                with contextlib.suppress(ValueError):
                    parsed = ipaddress.ip_address(address)
                    host = f"[{parsed}]" if parsed.version == 6 else str(parsed)
                    found.append(f"http://{host}:{ports[0]}")
    return found


def _whole_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
