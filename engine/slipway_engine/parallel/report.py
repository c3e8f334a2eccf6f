"""What a rank tells the program that started it, for health and metrics: a line of JSON a second."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from slipway_engine.parallel.counts import Counts


class Report:
    """The writing end. Without a file descriptor nobody reads, and nothing is written."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @property
    def alone(self) -> bool:
        """Say whether nobody reads, so that the rank's last words are its own business."""
        return self._fd is None

    def tell(self, state: str, counts: Counts | None) -> None:
        """Write how far the rank has come."""
        self._write({"state": state, "counts": None if counts is None else counts.numbers()})

    def failed(self, reason: str, message: str) -> None:
        """Write why the rank stops."""
        self._write({"state": "failed", "reason": reason, "message": message})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._fd is not None:
            # A reader that is gone or slow must not hold a rank up.
            with contextlib.suppress(OSError):
                os.write(self._fd, json.dumps(line).encode() + b"\n")
