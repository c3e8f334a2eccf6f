"""What waits for one deployment, and the words in which it is spoken of."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from slipway_gateway import errors
from slipway_gateway.fair import FairQueue
from slipway_gateway.objects import Key

ABOUT_SECONDS: Final = 60.0
"""How long after its last request a tenant counts as being about."""
STARTS_REMEMBERED: Final = 5
USUAL_START_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """Bounds on what waits."""

    max_bytes: int = 64 * 1024 * 1024
    seconds: float = 600.0
    """The longest wait, where neither the object nor the client says less."""


class Ask(NamedTuple):
    """What wants to enter."""

    key: Key
    tenant: str
    size: int
    """Bytes of the body."""
    work: float
    """What it is expected to cost, in tokens of prompts."""
    patience: float | None
    """Seconds after which its client leaves, where it said so."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits."""

    ask: Ask
    since: float
    verdict: asyncio.Future[errors.GatewayError | None]
    """None: it has a place."""
    here: bool = True
    placed: bool = False


@dataclass(slots=True)
class Line:
    """What waits for one deployment, and what its tenants have on its pods."""

    queue: FairQueue[Waiter] = field(default_factory=FairQueue)
    running: dict[str, int] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    on_the_way: int = 0
    """Let go, but not yet counted by the balancer."""
    asleep_since: float | None = None
    """When the first of those that wait for a first pod came."""
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=STARTS_REMEMBERED))
    """Seconds that the last starts from zero took."""

    def others_about(self, tenant: str, now: float) -> bool:
        """Return whether another tenant was here lately."""
        if len(self.seen) > 1:
            since = now - ABOUT_SECONDS
            self.seen = {t: at for t, at in self.seen.items() if at >= since or t in self.running}
        return any(other != tenant for other in self.seen)

    def has_least(self, tenant: str) -> bool:
        """Return whether a tenant has no more on the pods than half of what the one with most has."""
        most = max(self.running.values(), default=0)
        return 2 * self.running.get(tenant, 0) < most

    def retry_after(self, now: float) -> int:
        """Return the seconds until the first pod should be there, by what the last starts took."""
        usual = max(self.starts, default=USUAL_START_SECONDS)
        waited = 0.0 if self.asleep_since is None else now - self.asleep_since
        return max(errors.RETRY_AFTER_UNAVAILABLE, round(usual - waited))

    def awake(self, now: float) -> None:
        """Note that the first pod is there."""
        if self.asleep_since is not None:
            self.starts.append(now - self.asleep_since)
            self.asleep_since = None
