"""One answer to its parts, as it is written: thinking, text and calls of tools."""

from __future__ import annotations

from typing import TypeAlias

from slipway_engine.server.reasoning import Reasoning, ThinkReader
from slipway_engine.server.tools.events import Content, Event
from slipway_engine.server.tools.reader import ToolReader

Part: TypeAlias = Event | Reasoning


class AnswerReader:
    """Parts one answer; `think` and `tools` are None where there is nothing of the kind to read."""

    def __init__(self, think: ThinkReader | None, tools: ToolReader | None) -> None:
        self._think = think
        self._tools = tools

    @property
    def called(self) -> bool:
        """Whether a call has begun."""
        return self._tools is not None and self._tools.calls > 0

    def feed(self, text: str) -> list[Part]:
        """Take more of the answer; return what has become certain."""
        thought, text = self._think.feed(text) if self._think is not None else ("", text)
        return self._parts(thought, text)

    def finish(self, *, cut: bool) -> list[Part]:
        """Return the rest. `cut`: the answer ended at a limit, not by the model's own will."""
        thought, text = self._think.finish() if self._think is not None else ("", "")
        parts = self._parts(thought, text)
        return [*parts, *self._tools.finish(cut=cut)] if self._tools is not None else parts

    def _parts(self, thought: str, text: str) -> list[Part]:
        parts: list[Part] = [Reasoning(thought)] if thought else []
        if self._tools is not None:
            parts += self._tools.feed(text)
        elif text:
            parts.append(Content(text))
        return parts
