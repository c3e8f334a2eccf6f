"""Which pod gets the next request: the one with the least outstanding, or that saw the same beginning.

Pods that keep failing sit out: five failures in a row eject a pod for 10 s, doubling to 120 s; then one
request probes it. At most half of a deployment's pods are ejected at a time, and when no other pod is left
the ejected ones are used (fail open). Reads no clock: `now` comes in.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from slipway_gateway.affinity import Ring, bound
from slipway_gateway.objects import Endpoint

FAILURES_TO_EJECT = 5
EJECT_SECONDS = 10.0
EJECT_SECONDS_MAX = 120.0


@dataclass(slots=True)
class PodState:
    """What is known of one pod."""

    outstanding: int = 0
    failures: int = 0
    ejections: int = 0
    ejected_until: float | None = None
    """Set from the ejection until a success; in the past: the pod may be probed."""
    probing: bool = False

    def usable(self, now: float) -> bool:
        """Return whether the pod takes a request: not ejected, or due for its probe."""
        if self.ejected_until is None:
            return True
        return now >= self.ejected_until and not self.probing


class Balancer:
    """Chooses among the pods of one deployment and remembers how they did."""

    def __init__(self, rng: random.Random | None = None) -> None:
        # Spreads ties; nothing secret hangs on it.
        self._rng = rng or random.Random()  # noqa: S311
        self._pods: dict[Endpoint, PodState] = {}
        self._known: tuple[Endpoint, ...] = ()
        self._ring: Ring | None = None

    def pick(
        self,
        endpoints: Sequence[Endpoint],
        tried: Collection[Endpoint],
        now: float,
        prefix: bytes | None = None,
    ) -> Endpoint | None:
        """Return the pod for the next attempt, or None when each was tried.

        With a `prefix`, the first pod along the ring that is usable and not too busy; else the least loaded.
        """
        self._forget_gone(endpoints)
        left = [e for e in endpoints if e not in tried]
        if not left:
            return None
        usable = [e for e in left if self._state(e).usable(now)]
        if prefix is not None and (same := self._along(prefix, usable)) is not None:
            return same
        least = min(self._state(e).outstanding for e in usable or left)
        return self._rng.choice([e for e in usable or left if self._state(e).outstanding == least])

    def _along(self, prefix: bytes, usable: Collection[Endpoint]) -> Endpoint | None:
        if self._ring is None:
            self._ring = Ring(self._known)
        loads = {endpoint: self._state(endpoint).outstanding for endpoint in usable}
        most = bound(sum(loads.values()), len(loads))
        return next((e for e in self._ring.along(prefix) if e in loads and loads[e] + 1 <= most), None)

    def started(self, endpoint: Endpoint) -> None:
        """Count a request on its way to `endpoint`."""
        state = self._state(endpoint)
        state.outstanding += 1
        state.probing = state.ejected_until is not None

    def ended(self, endpoint: Endpoint) -> None:
        """Count it as over, however it ended."""
        state = self._state(endpoint)
        state.outstanding -= 1
        state.probing = state.probing and state.outstanding > 0

    def succeeded(self, endpoint: Endpoint) -> None:
        """The pod answered."""
        state = self._state(endpoint)
        state.failures, state.ejections, state.ejected_until, state.probing = 0, 0, None, False

    def failed(self, endpoint: Endpoint, now: float) -> bool:
        """The pod failed; return whether that ejected it."""
        state = self._state(endpoint)
        state.failures += 1
        state.probing = False
        if state.ejected_until is not None:
            if now < state.ejected_until:
                return False  # a request from before the ejection, or one that failed open: nothing new
        elif state.failures < FAILURES_TO_EJECT or not self._may_eject_another():
            return False
        state.ejected_until = now + min(EJECT_SECONDS * 2**state.ejections, EJECT_SECONDS_MAX)
        state.ejections += 1
        return True

    def _may_eject_another(self) -> bool:
        ejected = sum(1 for e in self._known if self._state(e).ejected_until is not None)
        return 2 * (ejected + 1) <= len(self._known)

    def outstanding(self) -> int:
        """Return the number of requests on their way."""
        return sum(state.outstanding for state in self._pods.values())

    def load(self, endpoints: Iterable[Endpoint]) -> int:
        """Return the number of requests on their way to these pods."""
        states = map(self._pods.get, endpoints)
        return sum(state.outstanding for state in states if state is not None)

    def ejected(self, now: float) -> int:
        """Return the number of pods that sit out."""
        return sum(1 for s in self._pods.values() if s.ejected_until is not None and now < s.ejected_until)

    def _state(self, endpoint: Endpoint) -> PodState:
        return self._pods.setdefault(endpoint, PodState())

    def _forget_gone(self, endpoints: Sequence[Endpoint]) -> None:
        if self._known is endpoints or self._known == endpoints:
            return
        self._known = tuple(endpoints)
        self._ring = None
        for gone in self._gone(endpoints):
            del self._pods[gone]

    def _gone(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        # A pod that left still counts its streams until they end.
        present = set(endpoints)
        return [e for e, state in self._pods.items() if e not in present and state.outstanding == 0]
