"""A trace of some steps of the core, by torch's profiler: begun and ended between steps, in one file."""

from __future__ import annotations

import logging
from pathlib import Path

from slipway_engine.core.messages import Profile, Profiled

log = logging.getLogger(__name__)

MAX_STEPS = (
    100  # a trace holds some thousand events a step, and all of them are in memory until it is written
)


class StepProfiler:
    """Traces the next steps when asked to; costs nothing else."""

    def __init__(self) -> None:
        self._asked: Profile | None = None
        self._done = 0
        self._trace: object = None

    def take(self, message: Profile) -> Profiled | None:
        """Begin a trace, or end the one that runs where no steps are asked for."""
        if message.steps == 0:
            return self._end()
        if self._asked is None:
            self._begin(message)
        return None

    def stepped(self) -> Profiled | None:
        """Note a step; return what was written where it was the last."""
        if self._asked is None:
            return None
        self._done += 1
        return self._end() if self._done >= min(self._asked.steps, MAX_STEPS) else None

    def _begin(self, message: Profile) -> None:
        # Here, so that a core without a profiler needs no torch.
        from torch.profiler import profile

        trace = profile()  # of all that this machine can trace
        trace.start()
        self._asked, self._trace, self._done = message, trace, 0

    def _end(self) -> Profiled | None:
        from torch.profiler import profile

        asked, trace, done = self._asked, self._trace, self._done
        if asked is None or not isinstance(trace, profile):
            return None
        self._asked = self._trace = None
        trace.stop()
        if not done:
            return Profiled(asked.path, 0, "No step was done: send a request while the trace is taken.")
        try:
            Path(asked.path).parent.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(asked.path)
        except (OSError, RuntimeError) as error:
            return Profiled(asked.path, done, f"The trace could not be written to {asked.path}: {error}.")
        log.info("A trace was written.", extra={"path": asked.path, "steps": done})
        return Profiled(asked.path, done)
