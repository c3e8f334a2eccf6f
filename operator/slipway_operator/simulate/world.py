"""The simulated cluster: replicas that take time to start, a front door, a policy asked every few seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from slipway_operator.autoscale.load import Load, PodLoad
from slipway_operator.ranks import nearest_rank
from slipway_operator.simulate.replica import Job, Replica, Speed
from slipway_operator.simulate.trace import Arrival

TICK: Final = 0.25
FIRST_WINDOW: Final = 60.0
LINGER: Final = 3600.0
"""Simulated seconds after the last arrival within which what is left may end."""


class Policy(Protocol):
    """What decides on replicas. `period` is the time between two questions, in seconds."""

    name: str
    period: float

    def replicas(self, load: Load) -> int:
        """Return the number of replicas that there should be."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The cluster's side: a replica's speed, seconds from creation to ready, whether a gateway holds."""

    speed: Speed = field(default_factory=Speed)
    start_seconds: float = 120.0
    gateway: bool = True


@dataclass(slots=True)
class Outcome:
    """What happened. The timeline's rows: time, replicas wanted, replicas ready, requests in the system."""

    jobs: list[Job]
    timeline: list[tuple[float, int, int, int]] = field(default_factory=list)
    replica_seconds: float = 0.0
    starts: int = 0
    decisions: list[tuple[float, int]] = field(default_factory=list)


def run(trace: Sequence[Arrival], policy: Policy, setting: Setting, first: int = 1) -> Outcome:
    """Play a trace from `first` ready replicas on."""
    jobs = [Job(arrival) for arrival in trace]
    outcome = Outcome(jobs)
    cluster = _Cluster(setting, outcome, first)
    pending = deque(jobs)
    now, asked = 0.0, -math.inf
    end = (trace[-1].at if trace else 0.0) + LINGER
    while pending or (cluster.busy and now < end):
        now += TICK
        while pending and pending[0].arrival.at <= now:
            cluster.route(pending.popleft(), now)
        cluster.advance(now)
        if now - asked >= policy.period:
            asked = now
            cluster.scale(policy.replicas(cluster.load(now)), now)
    return outcome


class _Cluster:
    """Replicas and the door before them."""

    def __init__(self, setting: Setting, outcome: Outcome, first: int) -> None:
        self._setting = setting
        self._outcome = outcome
        self._numbers = 0
        self._replicas: list[Replica] = []
        self._held: deque[Job] = deque()
        self._wanted = first
        self._seen: dict[int, tuple[float, int, float, float]] = {}
        self._add(first, -math.inf)

    @property
    def busy(self) -> bool:
        """Return whether a request is left."""
        return bool(self._held) or any(replica.requests for replica in self._replicas)

    def route(self, job: Job, now: float) -> None:
        """Give a request to the ready replica with the fewest, or hold it where there is none."""
        ready = [replica for replica in self._replicas if replica.ready_at <= now and not replica.leaving]
        if ready:
            min(ready, key=lambda replica: replica.requests).take(job)
        else:
            self._held.append(job)

    def advance(self, now: float) -> None:
        """Let a tick pass."""
        if self._held and any(r.ready_at <= now and not r.leaving for r in self._replicas):
            waiting, self._held = self._held, deque()
            for job in waiting:
                self.route(job, now)
        for replica in self._replicas:
            if replica.ready_at <= now and replica.requests:
                replica.advance(now, TICK)
        self._replicas = [r for r in self._replicas if not (r.leaving and r.requests == 0)]
        self._outcome.replica_seconds += TICK * len(self._replicas)

    def load(self, now: float) -> Load:
        """Return what a policy gets to see."""
        here = [replica for replica in self._replicas if not replica.leaving]
        ready = [replica for replica in here if replica.ready_at <= now]
        pods = tuple(
            PodLoad(
                name=str(replica.number),
                at=now,
                running=replica.running,
                waiting=len(replica.waiting),
                kv_cache=replica.kv_share,
                tpot=tpot,
                finishing=finishing,
            )
            for replica in ready
            for tpot, finishing in [self._since(replica, now)]
        )
        held = float(len(self._held)) if self._setting.gateway else None
        requests = sum(replica.requests for replica in self._replicas) + len(self._held)
        self._outcome.timeline.append((now, self._wanted, len(ready), requests))
        start = self._setting.start_seconds
        gateway = self._setting.gateway
        return Load(
            now,
            self._wanted,
            len(ready),
            pods,
            held,
            ttft=self._first_tokens(ready, now),
            ready_seconds=start,
            gateway=gateway,
        )

    def _first_tokens(self, ready: Sequence[Replica], now: float) -> float | None:
        """Return the 95th percentile of the last minute; 0 where nobody waits, None: unknown."""
        for replica in ready:
            while replica.firsts and now - replica.firsts[0][0] > FIRST_WINDOW:
                replica.firsts.popleft()
        found = sorted(took for replica in ready for _, took in replica.firsts)
        if found:
            return nearest_rank(found, 95)
        return 0.0 if ready and not any(replica.requests for replica in ready) else None

    def _since(self, replica: Replica, now: float) -> tuple[float | None, float | None]:
        """Return the time per token and the requests that ended a second since the look before."""
        seen = (now, replica.finished, replica.tokens, replica.stream_seconds)
        before = self._seen.get(replica.number)
        self._seen[replica.number] = seen
        if before is None or now <= before[0]:
            return None, None
        tokens = seen[2] - before[2]
        tpot = (seen[3] - before[3]) / tokens if tokens > 0 else None
        return tpot, (seen[1] - before[1]) / (now - before[0])

    def scale(self, wanted: int, now: float) -> None:
        """Create or drain replicas; those that start go first, then the least loaded."""
        here = [replica for replica in self._replicas if not replica.leaving]
        if wanted != self._wanted:
            self._outcome.decisions.append((now, wanted - self._wanted))
        self._wanted = wanted
        if wanted > len(here):
            self._outcome.starts += wanted - len(here)
            self._add(wanted - len(here), now)
        leaving = sorted(here, key=lambda r: (r.ready_at <= now, r.requests))[: max(0, len(here) - wanted)]
        for replica in leaving:
            replica.leaving = True

    def _add(self, count: int, now: float) -> None:
        for _ in range(count):
            self._numbers += 1
            ready_at = now + self._setting.start_seconds
            self._replicas.append(Replica(self._numbers, ready_at, self._setting.speed))
