"""Runs commands of the cluster tool at the same time and shows their progress on one terminal.

Each command rewrites its own last line, so two of them would overwrite each other's. Here they write whole
lines into pipes instead: what is finished stays, what is under way shares the last line. Where there is no
terminal nothing has to be rewritten, and they write as they always do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
UNDER_WAY = "  .. "


class CommandFailed(RuntimeError):
    """A command ended with an error; what it wrote has been shown."""


@dataclass
class Board:
    """The terminal: lines that stay, and below them one line of what is under way."""

    stream: IO[str]
    running: dict[int, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, who: int, line: str) -> None:
        """Take one line of a command's progress."""
        with self.lock:
            if line.startswith(UNDER_WAY):
                self.running[who] = line.removeprefix(UNDER_WAY).strip()
                self.stream.write(f"\r\033[K{self.last_line()}")
            else:
                self.running.pop(who, None)
                self.stream.write(f"\r\033[K{line}\n{self.last_line()}")
            self.stream.flush()

    def last_line(self) -> str:
        """What is under way, cut to the terminal's width so that it can be rewritten."""
        if not self.running:
            return ""
        room = (shutil.get_terminal_size().columns - 6) // len(self.running) - 3
        return UNDER_WAY + " | ".join(shortened(text, max(room, 10)) for text in self.running.values())


def shortened(text: str, room: int) -> str:
    """The text without its middle: the start says what is done, the end how far it is."""
    end = room * 2 // 3
    return text if len(text) <= room else f"{text[: room - end - 1]}…{text[-end:]}"


def _shown(command: Sequence[str], who: int, board: Board | None) -> subprocess.CompletedProcess[str]:
    if board is None:
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    environment = {**os.environ, "SLIPWAY_PROGRESS_SECONDS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            board.hear(who, line.rstrip("\n"))
        output = process.stdout.read()
    return subprocess.CompletedProcess(command, process.returncode, output)


def run(*series: Sequence[Sequence[str]]) -> list[list[str]]:
    """Run each series of the tool's commands beside the others; return what their commands printed.

    A series ends with its first command that fails; the others go on, so that no work is lost. Raises
    CommandFailed with the first failure once all have ended.
    """
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    board = Board(sys.stderr) if live and len(series) > 1 else None
    printed: list[list[str]] = [[] for _ in series]
    failures: list[str] = []

    def work(who: int) -> None:
        for words in series[who]:
            done = _shown([sys.executable, "-m", "e2e.cluster", *words], who, board)
            if done.returncode:
                failures.append(" ".join(words))
                return
            printed[who].append(done.stdout.strip())

    threads = [threading.Thread(target=work, args=(who,)) for who in range(len(series))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise CommandFailed(f"`python3 -m e2e.cluster {failures[0]}` failed; its message stands above.")
    return printed
