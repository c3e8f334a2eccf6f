"""The steps that are on their way: one, or as many as keep the stages of a pipeline at work.

While one stage computes a step, the stage before it computes the next one. A step is then a part of what
could run (a micro-batch, Huang et al. 2019, GPipe), and a request is in one of them at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from slipway_engine.core.backend import Answers, Pipelined, StepRunner, Ticket
from slipway_engine.core.scheduler import Scheduled


class Flight:
    """Steps in the order in which they were sent. A runner that knows but one computes it at once."""

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self._pipelined = runner if isinstance(runner, Pipelined) else None
        self._depth = 1 if self._pipelined is None else self._pipelined.depth
        self.several = self._depth > 1  # else a step ends before anything else happens
        self._steps: deque[tuple[Sequence[Scheduled], Ticket | Answers]] = deque()

    def __len__(self) -> int:
        """Return how many steps are on their way."""
        return len(self._steps)

    @property
    def has_room(self) -> bool:
        """Say whether another step should be sent."""
        return len(self._steps) < self._depth

    def share(self, runnable: int) -> int | None:
        """Return how many of the requests belong into one step; None where there is but one."""
        return max(1, -(-runnable // self._depth)) if self.several else None

    def launch(self, plan: Sequence[Scheduled]) -> None:
        """Send a step."""
        if self._pipelined is None:
            self._steps.append((plan, self._runner.run(plan)))
        else:
            self._steps.append((plan, self._pipelined.submit(plan)))

    def land(self) -> tuple[Sequence[Scheduled], Answers]:
        """Return the oldest step and its answers, for which it may have to wait."""
        plan, found = self._steps.popleft()
        if isinstance(found, tuple):
            return plan, found
        assert self._pipelined is not None
        return plan, self._pipelined.collect(found)
