"""The last words of a process that cannot go on, where Kubernetes looks for them."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

ENVIRONMENT = "SLIPWAY_TERMINATION_LOG"
DEFAULT_PATH = Path("/dev/termination-log")
MAX_BYTES = 4096


def write_termination_log(reason: str, message: str) -> None:
    """Write the reason and the sentence as JSON to the termination log, where there is one."""
    path = _path()
    if path is None:
        return
    # Losing the last words is no reason to lose the exit status as well.
    with contextlib.suppress(OSError):
        path.write_bytes(_fitting(reason, message))


def write_report(text: str) -> None:
    """Write what a process that succeeded has to tell to the termination log, where there is one."""
    path = _path()
    if path is not None:
        path.write_text(text)


def _path() -> Path | None:
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    return DEFAULT_PATH if DEFAULT_PATH.exists() else None


def _fitting(reason: str, message: str) -> bytes:
    """Return the JSON, its message cut where the whole would exceed the limit."""
    while len(data := json.dumps({"reason": reason, "message": message}).encode()) > MAX_BYTES:
        message = message[: len(message) * 9 // 10]
    return data
