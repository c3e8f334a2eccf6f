"""Reads an answer as it is written: which of it is text, and which of it is calls of tools.

The same characters give the same calls however they are cut into pieces. What may be the beginning of a call
is held back; what turns out to be none comes out as text; a call that the limit of tokens cut off before its
name and the beginning of its arguments is dropped, so that no broken JSON is ever shown as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from slipway_engine.server.tools.dialects import Dialect
from slipway_engine.server.tools.events import Arguments, CallBegan, Content, Event
from slipway_engine.server.tools.scanner import CallScanner, ValueScanner

_SPACE = " \t\r\n"
_NAMED = re.compile(r"\s*([\w.-]{1,128})\s*(?:\[CALL_ID\][^\[\]{}]{1,64})?(?:\[ARGS\])?\s*")


class ToolReader:
    """One answer's text to events. `most` calls are reported; later ones are read and dropped."""

    def __init__(self, dialect: Dialect, known: Sequence[str], *, most: int | None = None) -> None:
        self.calls = 0
        self._dialect = dialect
        self._known = frozenset(known)
        self._most = most
        self._step: Callable[[], bool] = self._at_start if dialect.unmarked else self._in_text
        self._text = ""  # what has not been read yet
        self._mark = ""  # the announcement of a call that is not certain yet
        self._tried = ""  # what has been read of that call
        self._events: list[Event] = []
        self._call = CallScanner()
        self._value = ValueScanner()
        self._marked = self._begun = False

    def feed(self, text: str) -> list[Event]:
        """Take more of the answer; return what has become certain."""
        self._text += text
        while self._text and self._step():
            pass
        return self._taken()

    def finish(self, *, cut: bool) -> list[Event]:
        """Return the rest. `cut`: the answer ended at a limit, not by the model's own will."""
        if cut and self._step == self._in_text and (tail := _overlap(self._text, self._dialect.begin)):
            self._text = self._text[:-tail].rstrip(_SPACE)
        rest = self._mark + self._tried + self._text
        undecided = bool(self._mark + self._tried) or self._step == self._at_start
        # Behind a call nothing but white space is no text either.
        shown = rest if self._step == self._in_text and (rest.strip() or not self.calls) else ""
        self._show(rest if undecided and not cut else shown)
        self._mark = self._tried = self._text = ""
        return self._taken()

    # Each step reads some of the text and says whether there may be more to do without further text.

    def _at_start(self) -> bool:
        """The answer's first character decides whether it is a call that nothing announces."""
        rest = self._text.lstrip(_SPACE)
        if not rest:
            return False
        if rest[0] == "{":
            self._tried, self._text = self._text[: -len(rest)], rest
            return self._begin_call(marked=False)
        self._step = self._in_text
        return True

    def _in_text(self) -> bool:
        text = self._text
        found = [(at, marker) for marker in self._dialect.begin if (at := text.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            self._show(text[:at].rstrip(_SPACE))
            before = len(text[:at].rstrip(_SPACE))
            self._mark, self._text = text[before : at + len(marker)], text[at + len(marker) :]
            self._step = self._opened
            return True
        certain = len(text) - self._uncertain(text)
        self._show(text[:certain])
        self._text = text[certain:]
        return False

    def _opened(self) -> bool:
        """Behind the announcement: an object, a list of them, or a name."""
        rest = self._text.lstrip(_SPACE + "[")
        self._tried += self._text[: len(self._text) - len(rest)]
        self._text = rest
        if not self._text:
            return False
        if self._text[0] == "{":
            return self._begin_call(marked=True)
        if self._dialect.named:
            self._step = self._in_name
            return True
        return self._no_call()

    def _in_name(self) -> bool:
        name, brace, _ = self._text.partition("{")
        if not brace:
            return False
        match = _NAMED.fullmatch(name)
        if match is None:
            return self._no_call()
        self._text = self._text[len(name) :]
        self._announce(match[1])
        self._value = ValueScanner()
        self._step = self._in_arguments
        return True

    def _in_arguments(self) -> bool:
        end = self._value.feed(self._text, 0)
        self._argue(self._text[:end])
        self._text = self._text[end:]
        if self._value.failed:
            return self._ruined()
        if self._value.done:
            self._step = self._between
        return self._value.done

    def _in_call(self) -> bool:
        end = self._call.feed(self._text)
        if not self._begun:
            self._tried += self._text[:end]
        self._text = self._text[end:]
        if self._call.begun:
            if not self._begun:
                assert self._call.name is not None
                self._begun = True
                self._announce(self._call.name)
            self._argue(self._call.take())
        if self._call.failed:
            return self._ruined() if self._begun else self._no_call()
        if self._call.done:
            self._step = self._between
        return self._call.done

    def _between(self) -> bool:
        """Behind a call: another one, or the end of the calls."""
        end = self._dialect.end
        # A brace too many before the end is a slip that models make.
        self._text = self._text.lstrip(_SPACE + (",;]}" if end else ",;]"))
        if not self._text or (self._text != end and end.startswith(self._text)):
            return False
        if self._text[0] == "{":
            return self._begin_call(marked=self._marked)
        self._text = self._text.removeprefix(end)
        self._step = self._in_text
        return True

    def _to_the_end(self) -> bool:
        """Drop whatever the model wrote between a call and the text that closes it, or opens the next."""
        marks = [mark for mark in (self._dialect.end, *self._dialect.begin) if mark]
        found = [(at, mark) for mark in marks if (at := self._text.find(mark)) >= 0]
        if not found:
            self._text = self._text[len(self._text) - _overlap(self._text, marks) :]
            return False
        at, mark = min(found)
        closed = mark == self._dialect.end
        self._text = self._text[at + len(mark) if closed else at :]
        self._step = self._in_text
        return True

    def _dropping(self) -> bool:
        self._text = ""
        return False

    # What the steps share

    def _begin_call(self, *, marked: bool) -> bool:
        self._marked = marked
        self._begun = False
        self._call = CallScanner(None if marked else self._known)
        self._step = self._in_call
        return True

    def _no_call(self) -> bool:
        """What was held back is text after all: the announcement is, the rest is read again as text."""
        self._show(self._mark)
        self._text = self._tried + self._text
        self._mark = self._tried = ""
        self._step = self._in_text
        return True

    def _ruined(self) -> bool:
        """A call that has been announced goes on as no JSON: what is left of it is no text either."""
        self._step = self._to_the_end if self._dialect.end else self._dropping
        return True

    def _uncertain(self, text: str) -> int:
        """Return how many of the last characters may be space before an announcement, or its beginning."""
        tail = _overlap(text, self._dialect.begin)
        before = text[: len(text) - tail]
        return tail + len(before) - len(before.rstrip(_SPACE))

    def _announce(self, name: str) -> None:
        self._mark = self._tried = ""
        self.calls += 1
        if self._counts():
            self._events.append(CallBegan(self.calls - 1, name))

    def _argue(self, text: str) -> None:
        if text and self._counts():
            self._events.append(Arguments(self.calls - 1, text))

    def _counts(self) -> bool:
        return self._most is None or self.calls <= self._most

    def _show(self, text: str) -> None:
        if text:
            self._events.append(Content(text))

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _overlap(text: str, marks: Sequence[str]) -> int:
    """Return the length of the longest end of the text that begins one of the marks."""
    longest = min(len(text), max(map(len, marks)) - 1)
    for length in range(longest, 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0
