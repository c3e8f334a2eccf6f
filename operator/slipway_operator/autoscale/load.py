"""What one look at a deployment saw: the load of its pods, and the state of its replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FRESH_SECONDS: Final = 30.0
"""A pod's sample that is older says nothing about now; those of a Prometheus come more slowly."""


@dataclass(frozen=True, slots=True)
class PodLoad:
    """One pod's sample, taken `at` (seconds since the epoch).

    `running` and `waiting` count requests, `kv_cache` is the used share of the KV blocks (None where the
    engine does not say), `tpot` the mean time per output token since the sample before, in seconds (None
    where no token came), `finishing` the requests that ended a second in that time (None where it is not
    known). `serving` is whether the pod gets new requests; one that does not may still hold some.
    """

    name: str
    at: float
    running: float
    waiting: float
    kv_cache: float | None = 0.0
    tpot: float | None = None
    finishing: float | None = None
    serving: bool = True

    @property
    def requests(self) -> float:
        """Return the requests in the pod."""
        return self.running + self.waiting


@dataclass(frozen=True, slots=True)
class Load:
    """Everything that a decision is made from.

    `pods` holds the newest sample of each pod that is not leaving, however old it is. `current` is the number
    of replicas wanted at the moment, `ready` those that serve. `held` counts requests that wait at the
    gateway; None where no gateway reports, and `gateway` says whether there should be one. `values` are the
    results of the user's own queries by name (None: no result). `ready_seconds` is how long a replica takes
    from its creation until it serves, `fresh_for` how old a sample may be.
    """

    now: float
    current: int
    ready: int
    pods: tuple[PodLoad, ...] = ()
    held: float | None = None
    ttft: float | None = None
    values: tuple[tuple[str, float | None], ...] = ()
    rolling: bool = False
    ready_seconds: float = 120.0
    fresh_for: float = FRESH_SECONDS
    gateway: bool = False

    @property
    def fresh(self) -> tuple[PodLoad, ...]:
        """Return the samples young enough to count."""
        return tuple(pod for pod in self.pods if self.now - pod.at < self.fresh_for)

    @property
    def silent(self) -> int:
        """Return how many ready pods have no fresh sample."""
        return max(0, self.ready - sum(pod.serving for pod in self.fresh))

    @property
    def blind(self) -> bool:
        """Return whether nothing at all is known: pods serve, and nobody says how much is asked of them."""
        return self.ready > 0 and not self.fresh and not self.held
