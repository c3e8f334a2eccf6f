"""What is written down about a request: one JSON line, never its content, its key or a made-up name.

The line is the usage record too: who asked, of which model, what it cost in tokens. It is written when the
request ends, so a gateway that is killed loses the lines of what it carried at that moment, and no others.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from slipway_gateway.objects import Key
from slipway_gateway.usage import Tally

OK: Final = "ok"
REFUSED: Final = "refused"
CLIENT_LEFT: Final = "client_left"
UPSTREAM_FAILED: Final = "upstream_failed"


@dataclass(slots=True)
class Record:
    """One request, filled in on its way."""

    request_id: str
    method: str
    route: str
    """The route that was matched, or `other`: paths are the client's words."""
    began: float = field(default_factory=time.monotonic)
    tenant: str = ""
    key_id: str = ""
    deployment: Key | None = None
    digest: str = ""
    """Of the deployment's model."""
    pod: str = ""
    trace_id: str = ""
    """Of the trace that the pod's part of the request belongs to."""
    retries: int = 0
    status: int = 0
    outcome: str = OK
    """One of the four words above."""
    tally: Tally = field(default_factory=Tally)
    limits: dict[str, str] = field(default_factory=dict)
    """Headers that tell the client what its limits leave it."""
    bytes_in: int = 0
    bytes_out: int = 0
    held: float = 0.0
    """Seconds that it waited for a place on a pod."""
    first_byte: float | None = None
    """Seconds until the pod's response began."""

    def seconds(self) -> float:
        """Return how long the request has been here."""
        return time.monotonic() - self.began


def fields(record: Record) -> dict[str, Any]:
    """Return what is written down of a request that is over."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": "request",
        "request_id": record.request_id,
        "trace_id": record.trace_id or None,
        "tenant": record.tenant or None,
        "key_id": record.key_id or None,
        "method": record.method,
        "route": record.route,
        "deployment": str(record.deployment) if record.deployment else None,
        "model_digest": record.digest or None,
        "prompt_tokens": record.tally.prompt,
        "completion_tokens": record.tally.answer,
        "tokens_estimated": not record.tally.exact,
        "pod": record.pod or None,
        "retries": record.retries,
        "status": record.status,
        "outcome": record.outcome,
        "ms": round(record.seconds() * 1000, 1),
        "first_byte_ms": None if record.first_byte is None else round(record.first_byte * 1000, 1),
        "held_ms": round(record.held * 1000, 1),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }


class NoLog(Exception):
    """The file cannot be written."""


class AccessLog:
    """Writes a line per request."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    @classmethod
    def at(cls, path: Path | None) -> AccessLog:
        """Return the log that appends to a file, or to standard output."""
        try:
            return cls(path.open("a", encoding="utf-8") if path else None)
        except OSError as error:
            raise NoLog(f"--request-log {path} cannot be written: {error.strerror}.") from None

    def close(self) -> None:
        """Close the file, if it is one."""
        if self._stream is not sys.stdout:
            self._stream.close()

    def write(self, record: Record) -> None:
        """Write the line of a request that is over."""
        line = fields(record)
        print(json.dumps(line, separators=(",", ":")), file=self._stream, flush=True)
