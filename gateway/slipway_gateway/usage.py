"""What a request cost, as its engine counted it; where the engine does not say, what was seen to pass.

A stream's engine is asked for its count (`stream_options.include_usage`); where the client did not ask for
it, the event that carries it goes no further.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

TAIL: Final = 4096
"""Bytes at the end of a long response in which its count is looked for."""

# A quote inside a JSON text is escaped, so this cannot match in the middle of one.
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()


@dataclass(slots=True)
class Tally:
    """The tokens of one request."""

    prompt: int = 0
    answer: int = 0
    exact: bool = False
    """Whether the engine counted them; else they are estimated."""
    hide: bool = False
    """Whether the stream's count is kept from the client, who did not ask for it."""

    def total(self) -> int:
        """Return all tokens."""
        return self.prompt + self.answer

    def take(self, body: bytes) -> bool:
        """Take over the count in a response, or in its end; return whether there is one."""
        for match in reversed(list(_USAGE.finditer(body))):
            try:
                found, _ = _DECODER.raw_decode(body[match.end() :].decode(errors="replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and _is_count(found.get("prompt_tokens")):
                self.prompt = found["prompt_tokens"]
                self.answer = _count(found.get("completion_tokens"))
                self.exact = True
                return True
        return False

    def pass_events(self, events: bytes) -> bytes:
        """Take note of whole events on their way to the client; return what is sent on."""
        if not events:
            return events
        if not self.exact:
            self.answer += events.count(b"data: {")
        if _USAGE.search(events) is None:
            return events
        self.take(events)
        if not self.hide:
            return events
        return b"".join(piece for piece in _split(events) if not _only_counts(piece))


def _split(events: bytes) -> list[bytes]:
    return re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", events)


def _only_counts(event: bytes) -> bool:
    """Return whether an event carries a count and no part of an answer."""
    if _USAGE.search(event) is None:
        return False
    try:
        found = json.loads(event.partition(b"data:")[2])
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("choices") == []


def wanted(stream: Any, options: Any) -> dict[str, Any] | None:
    """Return the `stream_options` that ask an engine for its count; None: they stay as they are."""
    if stream is not True:
        return None
    if options is None:
        return {"include_usage": True}
    if not isinstance(options, dict) or options.get("include_usage") is True:
        return None
    return options | {"include_usage": True}


def _count(value: Any) -> int:
    return value if _is_count(value) else 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
