"""Tells what is being done, how far it is and how long it took.

On a terminal the running step is one line that is rewritten; elsewhere (a log
file, CI) it is a line when the step starts to be long and one when it is done.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

QUIET_SECONDS = 10.0  # between two lines about a running step where there is no terminal
REDRAW_SECONDS = 0.25
GREEN, RED, DIM, PLAIN = "\033[32m", "\033[31m", "\033[2m", "\033[0m"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


@dataclass
class Step:
    """A running step; `say` reports how far it is."""

    title: str
    started: float = field(default_factory=time.monotonic)
    note: str = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def say(self, note: str) -> None:
        """How far the step is, as `812 of 2851 packages`; it is shown soon, not at once."""
        self.note = note


class Progress:
    """Writes steps to a stream, standard error unless told."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.between = float(os.environ.get("SLIPWAY_PROGRESS_SECONDS") or QUIET_SECONDS)
        self.colour = self.live and "NO_COLOR" not in os.environ
        self.started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the tool began."""
        return time.monotonic() - self.started

    def paint(self, colour: str, text: str) -> str:
        """The text in a colour, where colours are shown."""
        return f"{colour}{text}{PLAIN}" if self.colour else text

    def draw(self, step: Step) -> None:
        """Shows a step that is under way."""
        note = f": {step.note}" if step.note else ""
        line = f"  .. {step.title}{note} {self.paint(DIM, duration(step.elapsed))}"
        self.stream.write(f"\r\033[K{line}" if self.live else f"{line}\n")
        self.stream.flush()

    def line(self, mark: str, text: str) -> None:
        """A line that stays."""
        start = "\r\033[K" if self.live else ""
        self.stream.write(f"{start}{mark} {text}\n")
        self.stream.flush()

    def tell(self, text: str) -> None:
        """One sentence that is no step."""
        self.line("    ", text)

    def _keep_drawing(self, step: Step, ended: threading.Event) -> None:
        while not ended.wait(REDRAW_SECONDS if self.live else self.between):
            self.draw(step)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step from its start to its end, well or badly."""
        step = Step(title)
        ended = threading.Event()
        if self.live:
            self.draw(step)
        drawer = threading.Thread(target=self._keep_drawing, args=(step, ended), daemon=True)
        drawer.start()
        try:
            yield step
        except BaseException:
            self._end(drawer, ended, self.paint(RED, "  no"), step)
            raise
        self._end(drawer, ended, self.paint(GREEN, "  ok"), step)

    def _end(self, drawer: threading.Thread, ended: threading.Event, mark: str, step: Step) -> None:
        ended.set()
        drawer.join()
        note = f": {step.note}" if step.note else ""
        self.line(mark, f"{step.title}{note} {self.paint(DIM, duration(step.elapsed))}")
