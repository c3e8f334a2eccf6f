"""Leadership: of several operators the one that holds the Lease works, the others wait.

A Lease is taken over when nobody has renewed it for its whole duration as measured by our own monotonic
clock, never by comparing another machine's wall clock with ours. The holder stops working
`RENEW_DEADLINE` after its last successful renewal, well before anybody else may take over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Protocol

from slipway_operator.errors import Conflict, LeadershipLost, OperatorError
from slipway_operator.kinds import LEASE, Key, Kind, Object

LEASE_NAME: Final = "slipway-operator"
LEASE_DURATION: Final = 10.0
RENEW_DEADLINE: Final = 7.0
RETRY_PERIOD: Final = 1.5

logger = logging.getLogger(__name__)


class LeaseApi(Protocol):
    """The part of the API client that leadership needs."""

    def get(self, kind: Kind, key: Key) -> Awaitable[Object | None]:
        """Return one object, or None."""

    def create_lease(self, key: Key, body: Object) -> Awaitable[Object]:
        """Create a Lease. Raises Conflict where there is one."""

    def replace_lease(self, key: Key, body: Object) -> Awaitable[Object]:
        """Write a Lease. Raises Conflict where it changed since it was read."""


class Leadership:
    """One candidate for one Lease."""

    def __init__(
        self,
        api: LeaseApi,
        namespace: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api, self._key, self._identity = api, Key(namespace, LEASE_NAME), identity
        self._clock, self._sleep = clock, sleep
        self._seen: tuple[str, float] | None = None
        """The Lease's version last seen, and when it was seen first."""
        self._written: Object | None = None
        """The Lease as we wrote it last: a renewal is one request, not two."""
        self._renewed = 0.0
        self.held = False

    def leads(self) -> bool:
        """Return whether nobody else can have taken over by now: asked before each write.

        A process that was stopped for a while wakes up in the middle of its work, before `keep` has noticed.
        """
        return self.held and self._clock() - self._renewed <= RENEW_DEADLINE

    async def acquire(self) -> None:
        """Return once the Lease is ours."""
        waiting_for = None
        while True:
            holder = await self._attempt()
            if holder == self._identity:
                logger.info("leading", extra={"object": self._key})
                self.held = True
                return
            if holder != waiting_for and holder is not None:
                logger.info("waiting: %s leads", holder, extra={"object": self._key})
                waiting_for = holder
            await self._sleep(RETRY_PERIOD)

    async def keep(self) -> None:
        """Renew the Lease for as long as possible. Raises LeadershipLost when it is not ours any more."""
        while True:
            await self._sleep(RETRY_PERIOD)
            holder = await self._attempt()
            if holder is not None and holder != self._identity:
                self.held = False
                raise LeadershipLost(f"{holder} took the Lease {self._key}")
            if self._clock() - self._renewed > RENEW_DEADLINE:
                self.held = False
                raise LeadershipLost(f"the Lease {self._key} could not be renewed for {RENEW_DEADLINE:.0f} s")

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait for it to run out."""
        if not self.held:
            return
        self.held = False
        try:
            live = await self._api.get(LEASE, self._key)
            if live is None or live["spec"].get("holderIdentity") != self._identity:
                return
            spec = {**live["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            await self._api.replace_lease(self._key, {**live, "spec": spec})
        except OperatorError as error:
            logger.warning("the Lease was not given back: %s", error, extra={"object": self._key})

    async def _attempt(self) -> str | None:
        """Take or renew the Lease if that is allowed; return its holder, None where nobody can tell."""
        asked = self._clock()
        try:
            async with asyncio.timeout(RENEW_DEADLINE / 2):
                holder = await self._take()
        except (OperatorError, TimeoutError) as error:
            logger.warning("the Lease could not be read or written: %r", error, extra={"object": self._key})
            return None
        if holder == self._identity:
            self._renewed = asked  # the time of asking: what happened since may already be past it
        return holder

    async def _take(self) -> str:
        written, self._written = self._written, None
        if written is not None:
            with suppress(Conflict):  # changed since, perhaps by a renewal of ours whose answer was lost
                self._written = await self._api.replace_lease(self._key, self._lease(written))
                return self._identity
        live = await self._api.get(LEASE, self._key)
        try:
            if live is None:
                self._written = await self._api.create_lease(self._key, self._lease(None))
            elif self._free(live):
                self._written = await self._api.replace_lease(self._key, self._lease(live))
            else:
                return str(live["spec"]["holderIdentity"])
        except Conflict:
            return ""  # somebody was faster; the next attempt tells who
        return self._identity

    def _free(self, live: Object) -> bool:
        spec = live.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        version = str(live["metadata"].get("resourceVersion"))
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        duration = float(spec.get("leaseDurationSeconds") or LEASE_DURATION)
        return self._clock() - self._seen[1] > duration

    def _lease(self, live: Object | None) -> Object:
        old = (live or {}).get("spec") or {}
        ours = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(LEASE_DURATION),
            "acquireTime": old.get("acquireTime") if ours else _now(),
            "renewTime": _now(),
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if ours or live is None else 1),
        }
        metadata = (live or {}).get("metadata") or {"name": self._key.name, "namespace": self._key.namespace}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
