"""Logs for machines: one JSON object a line, each with the object it is about."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

# What kopf and the HTTP libraries say is only of interest when something is wrong.
QUIET = ("kopf", "aiohttp", "kubernetes", "asyncio")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. `extra={"object": key}` names the object, as namespace/name."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        about = getattr(record, "object", None)
        if about is not None:
            line["object"] = str(about)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str) -> None:
    """Send all logs to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
