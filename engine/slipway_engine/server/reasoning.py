"""What a model thinks before it answers: the text between `<think>` and `</think>`, read as it is written.

Both tags and the white space around them belong to neither part. With `inside` the answer begins within the
thinking, as where the chat template has written the opening tag already.
"""

from __future__ import annotations

from dataclasses import dataclass

BEGIN, END = "<think>", "</think>"
PARSERS = ("none", "qwen3", "deepseek_r1")
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the thinking."""

    text: str


def begins_inside(parser: str, prompt: str) -> bool:
    """Return whether an answer to this prompt begins within the thinking.

    DeepSeek R1's always does; others' where the template has written the opening tag.
    """
    return parser == "deepseek_r1" or prompt.rstrip().endswith(BEGIN)


class ThinkReader:
    """Parts one answer; the same characters give the same parts however they are cut into pieces."""

    def __init__(self, *, inside: bool) -> None:
        self._text = ""
        self._begun = False  # something of the current part has been returned
        self._part = "thinking" if inside else "start"

    def feed(self, text: str) -> tuple[str, str]:
        """Take more of the answer; return what is certain of the thinking and of the answer proper."""
        self._text += text
        if self._part == "start":
            self._start()
        thought = self._thinking() if self._part == "thinking" else ""
        return thought, self._answer() if self._part == "answer" else ""

    def finish(self) -> tuple[str, str]:
        """Return the rest; an answer that ends within its thinking is all thinking."""
        text, self._text = self._text, ""
        if self._part == "thinking":
            return self._stripped(text).rstrip(_SPACE), ""
        return "", text if self._part == "start" else self._stripped(text)

    def _start(self) -> None:
        rest = self._text.lstrip(_SPACE)
        if rest.startswith(BEGIN):
            self._text, self._part = rest[len(BEGIN) :], "thinking"
        elif not BEGIN.startswith(rest):
            self._part, self._begun = "answer", True  # no thinking: the text is the answer as it stands

    def _thinking(self) -> str:
        text = self._stripped(self._text)
        before, tag, after = text.partition(END)
        if tag:
            self._text, self._part, self._begun = after, "answer", False
            return before.rstrip(_SPACE)
        certain = text[: len(text) - _tail(text)].rstrip(_SPACE)
        self._text = text[len(certain) :]
        self._begun = self._begun or bool(certain)
        return certain

    def _answer(self) -> str:
        text, self._text = self._stripped(self._text), ""
        self._begun = self._begun or bool(text)
        return text

    def _stripped(self, text: str) -> str:
        """Return the text without white space at the part's beginning."""
        return text if self._begun else text.lstrip(_SPACE)


def _tail(text: str) -> int:
    """Return how many characters at the end may begin the closing tag."""
    for length in range(min(len(text), len(END) - 1), 0, -1):
        if END.startswith(text[-length:]):
            return length
    return 0
