"""How far a long step has come: a bar where a person watches, a line now and then where a log is kept."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

log = logging.getLogger(__name__)

_LINE_SECONDS = 10.0


class Report(Protocol):
    """Takes the news of one transfer."""

    def __call__(self, done: int, total: int | None) -> None:
        """Say that `done` bytes of `total` are there."""


@contextmanager
def transfer(name: str) -> Iterator[Report]:
    """Show one file's transfer."""
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(name, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(name)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something goes on, and for how long; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Lines:
    """A log line at most every few seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = time.monotonic()

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done != total and now - self._last < _LINE_SECONDS:
            return
        self._last = now
        log.info("Downloading.", extra={"file": self._name, "bytes": done, "of": total})
