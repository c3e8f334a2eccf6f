"""The waiting room: requests that no pod can take yet, and which of them goes next.

A deployment at zero is woken by the operator, which reads `held` in a long poll; its requests wait here
within bounds of number, bytes and time. A deployment whose pods are busy (each carries as many requests as
its engine runs at a time) lets its requests wait here too, where tenants take turns, instead of in the
engine's queue, where the first to flood it is served first. One rule lets them go in either case: as long as
the pods carry less than they bear, the tenant that was served least is next. While others are about, a tenant
leaves an eighth of the pods' places to them, so that a newcomer does not wait for a long answer to end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from slipway_gateway import errors, refusals
from slipway_gateway.line import Ask, HoldLimits, Line, Waiter
from slipway_gateway.objects import Deployment, Endpoint, Key
from slipway_gateway.world import World

SEQUENCES: Final = 32
"""What a pod bears of the requests that waited for it, where nobody says."""

LEFT_TO_OTHERS: Final = 8
LEAST_HOLD_SECONDS: Final = 120.0


class Place:
    """A request's place on its deployment's pods."""

    def __init__(self, room: Room, ask: Ask) -> None:
        self._room = room
        self._ask = ask
        self._sent = False
        self.waited = 0.0
        """Seconds."""

    def sent(self) -> None:
        """The balancer counts the request from now on."""
        if not self._sent:
            self._sent = True
            self._room.line(self._ask.key).on_the_way -= 1

    def end(self, work: float) -> None:
        """The request is over; `work` is what it really cost."""
        self.sent()
        self._room.ended(self._ask, work)


class Room:
    """All lines."""

    def __init__(
        self,
        world: World,
        load: Callable[[Key, Sequence[Endpoint]], int],
        limits: HoldLimits,
        *,
        wakes: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._world = world
        self._load = load
        self._limits = limits
        self._wakes = wakes
        self._clock = clock
        self._lines: dict[Key, Line] = {}
        self._changed = asyncio.Event()
        self.sequence = 0
        """Rises when a deployment gets its first waiting request, or the last one goes."""
        self.bytes = 0

    async def enter(self, ask: Ask) -> Place:
        """Return a place once there is one, or refuse."""
        deployment = self._world.deployments.get(ask.key)
        if deployment is None:
            raise refusals.gone(ask.key)
        line = self.line(ask.key)
        line.seen[ask.tenant] = now = self._clock()
        endpoints = self._world.endpoints(ask.key)
        if not endpoints and not (deployment.from_zero and self._wakes):
            raise refusals.no_pod(deployment, self._wakes)
        if not line.queue and endpoints and self._bears(line, deployment, endpoints, ask.tenant):
            return self._place(line, ask)
        return await self._wait(
            line, deployment, Waiter(ask, now, asyncio.get_running_loop().create_future())
        )

    def line(self, key: Key) -> Line:
        """Return the line of a deployment."""
        return self._lines.setdefault(key, Line())

    def waiting(self) -> int:
        """Return how many wait in all."""
        return sum(len(line.queue) for line in self._lines.values())

    def held(self) -> Iterator[tuple[Key, int, float]]:
        """Yield each deployment that requests wait for, how many, and the age of the oldest in seconds."""
        now = self._clock()
        for key, line in self._lines.items():
            if line.queue:
                yield key, len(line.queue), now - min(waiter.since for waiter in line.queue)

    async def changed(self, after: int, seconds: float) -> None:
        """Return once the sequence is beyond `after`, or after some seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self.sequence <= after:
                    await self._changed.wait()
        except TimeoutError:
            return

    def look(self, key: Key) -> None:
        """Something changed for a deployment: let go whoever may, send away whoever waits in vain."""
        line = self._lines.get(key)
        if line is None:
            return
        deployment = self._world.deployments.get(key)
        endpoints = self._world.endpoints(key) if deployment else ()
        if deployment is None or not (endpoints or (deployment.from_zero and self._wakes)):
            why = refusals.no_pod(deployment, self._wakes) if deployment else refusals.gone(key)
            self._dismiss(line, why)
            if deployment is None and not line.running:
                del self._lines[key]
        elif endpoints:
            line.awake(self._clock())
            self._let_go(line, deployment, endpoints)

    def dismiss_all(self) -> None:
        """Send everybody away: the gateway goes."""
        for line in self._lines.values():
            self._dismiss(line, refusals.leaving())

    def ended(self, ask: Ask, work: float) -> None:
        """A request's place is free again."""
        line = self.line(ask.key)
        line.queue.charge(ask.tenant, work - ask.work)
        line.running[ask.tenant] -= 1
        if not line.running[ask.tenant]:
            del line.running[ask.tenant]
        self.look(ask.key)

    async def _wait(self, line: Line, deployment: Deployment, waiter: Waiter) -> Place:
        ask, endpoints = waiter.ask, self._world.endpoints(waiter.ask.key)
        asleep = not endpoints
        self._make_room(line, deployment, waiter, asleep)
        seconds = self._seconds(line, deployment, ask, asleep)
        if asleep and line.asleep_since is None:
            line.asleep_since = waiter.since
        self._join(line, waiter)
        if endpoints:
            self._let_go(line, deployment, endpoints)
        try:
            async with asyncio.timeout(seconds):
                refusal = await waiter.verdict
        except TimeoutError:
            self._give_up(line, waiter)
            raise refusals.waited(deployment, seconds, line.retry_after(self._clock())) from None
        except asyncio.CancelledError:
            self._give_up(line, waiter)
            raise
        if refusal is not None:
            raise refusal
        place = Place(self, ask)
        place.waited = self._clock() - waiter.since
        return place

    def _make_room(self, line: Line, deployment: Deployment, waiter: Waiter, asleep: bool) -> None:
        most = deployment.max_held if asleep else None
        if asleep and most is None:
            most = 2 * (deployment.sequences or SEQUENCES)
        full = most is not None and len(line.queue) >= most
        if not full and self.bytes + waiter.ask.size <= self._limits.max_bytes:
            return
        # Whoever waits with most makes room for one who waits with less: a flood keeps nobody out.
        refusal = refusals.full(deployment, asleep, line.retry_after(self._clock()) if asleep else 1)
        tenant, count = line.queue.longest() if line.queue else ("", 0)
        if count <= line.queue.waiting(waiter.ask.tenant) + 1:
            raise refusal
        other = line.queue.newest(tenant)
        if self.bytes + waiter.ask.size - other.ask.size > self._limits.max_bytes:
            raise refusal
        self._send_away(line, other, refusal)

    def _seconds(self, line: Line, deployment: Deployment, ask: Ask, asleep: bool) -> float:
        """Return how long to wait: the object's word, or what starts took, and never beyond the client's."""
        most = self._limits.seconds
        if deployment.max_hold_seconds is not None:
            most = float(deployment.max_hold_seconds)
        elif asleep and line.starts:
            most = min(most, max(LEAST_HOLD_SECONDS, 1.5 * max(line.starts)))
        return most if ask.patience is None else min(most, ask.patience)

    def _let_go(self, line: Line, deployment: Deployment, endpoints: Sequence[Endpoint]) -> None:
        while line.queue:
            if self._free(line, deployment, endpoints) <= 0:
                return
            waiter = line.queue.pop(lambda tenant: self._bears(line, deployment, endpoints, tenant))
            if waiter is None:
                return
            self._left(line, waiter)
            if not waiter.verdict.cancelled():  # or else its client left a moment ago
                waiter.placed = True
                self._place(line, waiter.ask)
                waiter.verdict.set_result(None)

    def _free(self, line: Line, deployment: Deployment, endpoints: Sequence[Endpoint]) -> float:
        """Return how many more requests the pods bear."""
        each = deployment.sequences or (SEQUENCES if line.queue else None)
        if each is None:
            return float("inf")
        return each * len(endpoints) - self._load(deployment.key, endpoints) - line.on_the_way

    def _bears(self, line: Line, deployment: Deployment, endpoints: Sequence[Endpoint], tenant: str) -> bool:
        free = self._free(line, deployment, endpoints)
        if free <= 0 or deployment.sequences is None:
            return free > 0
        left = deployment.sequences * len(endpoints) // LEFT_TO_OTHERS
        return free > left or not line.others_about(tenant, self._clock()) or line.has_least(tenant)

    def _place(self, line: Line, ask: Ask) -> Place:
        line.on_the_way += 1
        line.running[ask.tenant] = line.running.get(ask.tenant, 0) + 1
        line.queue.charge(ask.tenant, ask.work)
        return Place(self, ask)

    def _give_up(self, line: Line, waiter: Waiter) -> None:
        """Take out one whose time is over, or whose client left; its place, if it just got one, is free."""
        if waiter.here:
            line.queue.remove(waiter.ask.tenant, waiter)
            self._left(line, waiter)
        elif waiter.placed:
            line.on_the_way -= 1
            self.ended(waiter.ask, 0.0)

    def _join(self, line: Line, waiter: Waiter) -> None:
        line.queue.push(waiter.ask.tenant, waiter)
        self.bytes += waiter.ask.size
        if len(line.queue) == 1:
            self._tell()

    def _left(self, line: Line, waiter: Waiter) -> None:
        waiter.here = False
        self.bytes -= waiter.ask.size
        if not line.queue:
            line.asleep_since = None if not self._world.endpoints(waiter.ask.key) else line.asleep_since
            self._tell()

    def _dismiss(self, line: Line, refusal: errors.GatewayError) -> None:
        for waiter in list(line.queue):
            self._send_away(line, waiter, refusal)

    def _send_away(self, line: Line, waiter: Waiter, refusal: errors.GatewayError) -> None:
        line.queue.remove(waiter.ask.tenant, waiter)
        self._left(line, waiter)
        if not waiter.verdict.cancelled():
            waiter.verdict.set_result(refusal)

    def _tell(self) -> None:
        self.sequence += 1
        self._changed.set()
        self._changed = asyncio.Event()
