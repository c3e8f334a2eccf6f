"""The core as one object: requests in, one `StepOutput` a step out."""

from __future__ import annotations

from collections.abc import Sequence

from slipway_engine.config import EngineConfig
from slipway_engine.core.messages import CoreStats, NewRequest, Ready, StepOutput


class EngineCore:
    """Loads a model and generates. Not thread-safe: one loop owns it.

    `add_request` raises `RequestError` (prompt too long, could never fit the cache, queue full: status 429,
    code "queue_full"). `abort` frees blocks at once; the next step reports the finish reason "abort".
    """

    ready: Ready

    def __init__(self, config: EngineConfig) -> None:
        """Load the model and plan the memory; raises `EngineError`."""
        raise NotImplementedError

    def add_request(self, request: NewRequest) -> None:
        """Queue a request, or refuse it with `RequestError`."""
        raise NotImplementedError

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop these requests and free what they hold; unknown ids are ignored."""
        raise NotImplementedError

    def has_work(self) -> bool:
        """Say whether `step` has anything to do or to report."""
        raise NotImplementedError

    def step(self) -> StepOutput:
        """Run one batch and return what it brought."""
        raise NotImplementedError

    def stats(self) -> CoreStats:
        """Return the gauges and counters as of now."""
        raise NotImplementedError

    def check_idle(self) -> None:
        """Assert that nothing leaked; call it only when `has_work()` is false."""
        raise NotImplementedError
