"""What a rank tells the program that started it, for health and metrics: a line of JSON a second."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from slipway_engine.parallel.experts import Load
from slipway_engine.parallel.traffic import Traffic


class Report:
    """The writing end. Without a file descriptor nobody reads, and nothing is written."""

    def __init__(self, rank: int, fd: int | None) -> None:
        self._rank = rank
        self._fd = fd

    @property
    def alone(self) -> bool:
        """Say whether nobody reads, so that the rank's last words are its own business."""
        return self._fd is None

    def tell(self, state: str, steps: int, traffic: Traffic, loads: Sequence[Load]) -> None:
        """Write how far the rank has come."""
        experts: dict[int, int] = {}
        for load in loads:
            for number, tokens in zip(range(load.experts.start, load.experts.stop), load.tokens, strict=True):
                experts[number] = experts.get(number, 0) + tokens
        told = {"rank": self._rank, "state": state, "steps": steps}
        counted = {"calls": traffic.calls, "bytes": traffic.sent, "experts": experts}
        self._write({**told, **counted})

    def failed(self, reason: str, message: str) -> None:
        """Write why the rank stops."""
        self._write({"rank": self._rank, "state": "failed", "reason": reason, "message": message})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._fd is not None:
            # A reader that is gone or slow must not hold a rank up.
            with contextlib.suppress(OSError):
                os.write(self._fd, json.dumps(line).encode() + b"\n")
