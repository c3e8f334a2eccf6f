"""When is a step overdue? The core says nothing while it hangs, so the other side keeps the time.

A step is overdue once it has lasted longer than max(10 s, 5 x its prediction); the prediction is an
exponentially weighted mean of the steps before it.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_ALLOWED_SECONDS = 10.0
ALLOWED_MULTIPLE = 5.0
_WEIGHT_OF_NEWEST = 0.2


@dataclass(slots=True)
class StepWatch:
    """Times the steps of a core from the outside. All times are seconds of one monotonic clock."""

    least_allowed: float = LEAST_ALLOWED_SECONDS
    predicted: float = 0.0
    since: float | None = None

    def work_began(self, now: float) -> None:
        """Note that the core has something to do; a step may already be going on."""
        if self.since is None:
            self.since = now

    def step_ended(self, now: float, *, more_work: bool) -> None:
        """Note that a step's output arrived, and whether another step follows it."""
        if self.since is not None:
            seconds = now - self.since
            self.predicted += _WEIGHT_OF_NEWEST * (seconds - self.predicted)
        self.since = now if more_work else None

    @property
    def allowed(self) -> float:
        """Seconds that a step may last."""
        return max(self.least_allowed, ALLOWED_MULTIPLE * self.predicted)

    def overdue(self, now: float) -> float | None:
        """Return how long the step has lasted where that is too long, else None."""
        if self.since is None or now - self.since <= self.allowed:
            return None
        return now - self.since
