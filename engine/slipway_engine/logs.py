"""Logging: one JSON object a line where a machine reads it, one plain line where a person does."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

FORMATS = ("auto", "json", "text")
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; what the caller passed as `extra` becomes keys of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A record as time, level, message and `key=value` for each extra."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line = super().format(record)
        return " ".join([line, *(f"{key}={value}" for key, value in _extras(record).items())])


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _PLAIN}


def configure_logging(style: str = "auto", level: int = logging.INFO) -> None:
    """Send every log record to stderr; `auto` is text on a terminal, else JSON."""
    if style == "auto":
        style = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if style == "json" else TextFormatter("%(asctime)s %(levelname)-7s %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # HTTP clients tell every URL, and a URL may be signed: whoever reads it in a log could use it.
    for noisy in ("httpx", "httpcore", "httpx2", "httpcore2", "urllib3", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
