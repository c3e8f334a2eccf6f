"""What runs, read from /proc: nothing is remembered in files that a crash could leave wrong."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
POLL_SECONDS = 0.02
KILL, TERMINATE = signal.SIGKILL, signal.SIGTERM


@dataclass(frozen=True)
class Process:
    """A process at the moment it was looked at; its start time tells it from a later one with its number."""

    pid: int
    argv: tuple[str, ...]
    pid_namespace: str
    start: int

    @property
    def program(self) -> str:
        """The name it was started by."""
        return Path(self.argv[0]).name if self.argv else ""


def start_time(stat: str) -> int:
    """The start time in the text of a `/proc/PID/stat`, or -1 for a zombie, which runs no more.

    The program's name, in parentheses, may hold anything, so fields count from the last one.
    """
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] in {"Z", "X"} else int(fields[19])


def look(pid: int) -> Process | None:
    """The process of this number, if it runs."""
    place = PROC / str(pid)
    try:
        argv = (place / "cmdline").read_bytes().split(b"\0")[:-1]
        start = start_time((place / "stat").read_text(errors="replace"))
        namespace = os.readlink(place / "ns" / "pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    words = tuple(word.decode(errors="replace") for word in argv)
    return Process(pid, words, namespace, start) if start >= 0 else None


def everything() -> Iterator[Process]:
    """All running processes this one can see."""
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            process = look(int(entry.name))
            if process:
                yield process


def alive(process: Process) -> bool:
    """Whether it is still this very process that runs."""
    now = look(process.pid)
    return now is not None and now.start == process.start


def send(process: Process, number: signal.Signals) -> None:
    """Sends a signal, unless the process has gone."""
    if alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def wait_gone(process: Process, seconds: float) -> bool:
    """Waits until the process has ended; false where it did not in time."""
    deadline = time.monotonic() + seconds
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
