"""JSON that comes in pieces: where a value ends, and what one call's object says so far.

Brackets and strings are followed, scalars are not checked: the arguments of a call are handed on as the model
wrote them, and a client has to expect JSON that is not valid, as with OpenAI's own models.
"""

from __future__ import annotations

import json
from collections.abc import Container

_SPACE = " \t\r\n"
_CLOSER = {"{": "}", "[": "]"}
_ARGUMENTS = ("arguments", "parameters")
_KEYS = ("name", "type", "id", *_ARGUMENTS)


class _Unexpected(Exception):
    """This character cannot stand here."""


class ValueScanner:
    """Finds the end of one JSON value. `failed`: what stands at the index returned is out of place."""

    def __init__(self) -> None:
        self.done = self.failed = False
        self._closers: list[str] = []
        self._string = self._escaped = self._begun = False

    def feed(self, text: str, at: int) -> int:
        """Return the index behind what belongs to the value."""
        while at < len(text) and not self.done:
            if self._string:
                self._in_string(text[at])
            elif not self._outside_string(text[at]):
                break
            at += 1
        return at

    def _in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._string = False
            self.done = not self._closers

    def _outside_string(self, character: str) -> bool:
        """Take one character; return whether it belongs to the value."""
        if not self._closers and self._begun and character in ",}]" + _SPACE:
            self.done = True
            return False
        if character in _CLOSER:
            self._closers.append(_CLOSER[character])
        elif character in "}]":
            if not self._closers or self._closers.pop() != character:
                self.failed = True
                return False
            self.done = not self._closers
        elif character == '"':
            self._string = True
        elif character == "," and not self._closers:
            self.failed = True
            return False
        self._begun = True
        return True


class CallScanner:
    """Reads `{"name": ..., "arguments": {...}}` (or "parameters"), in any order of keys.

    `known`: where given, only these names are calls, other keys than a call's make it none, and arguments are
    required; for formats in which nothing but the shape tells a call from other JSON. `failed`: the text has
    turned out to be no such object.
    """

    def __init__(self, known: Container[str] | None = None) -> None:
        self.name: str | None = None
        self.done = self.failed = False
        self._known = known
        self._expect = "{"
        self._key = ""
        self._value = ValueScanner()
        self._raw: list[str] = []
        self._arguments: list[str] = []
        self._given = False

    @property
    def begun(self) -> bool:
        """Whether it is certain that this is a call, of which the name is known."""
        return self.name is not None and (self._given or self.done)

    def take(self) -> str:
        """Return the arguments' text that is new since the last time; only once the call has begun."""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def feed(self, text: str) -> int:
        """Return how many characters belonged to the object."""
        at = 0
        try:
            while at < len(text) and not self.done:
                if self._expect == "value":
                    at = self._feed_value(text, at)
                elif text[at] in _SPACE and self._expect != "key":
                    at += 1
                else:
                    at = self._feed_structure(text, at)
        except _Unexpected:
            self.failed = True
        return at

    def _feed_structure(self, text: str, at: int) -> int:
        character = text[at]
        match self._expect, character:
            case "{", "{":
                self._expect = "first"
            case (("first" | "next"), '"'):
                self._begin("key")
                return at
            case (("first" | "after"), "}"):
                self._end()
            case "key", _:
                return self._feed_key(text, at)
            case ":", ":":
                self._expect = "before"
            case "before", _:
                self._begin("value")
                return at
            case "after", ",":
                self._expect = "next"
            case _:
                raise _Unexpected
        return at + 1

    def _begin(self, what: str) -> None:
        self._expect = what
        self._value = ValueScanner()
        self._raw = []

    def _feed_key(self, text: str, at: int) -> int:
        end = self._value.feed(text, at)
        self._raw.append(text[at:end])
        if self._value.done:
            self._key = str(_loaded("".join(self._raw)))
            if self._known is not None and self._key not in _KEYS:
                raise _Unexpected
            self._expect = ":"
        return end

    def _feed_value(self, text: str, at: int) -> int:
        end = self._value.feed(text, at)
        piece = text[at:end]
        if self._key in _ARGUMENTS and (self._raw or piece)[0][0] in "{[":
            self._given = True
            self._arguments.append(piece)
            self._raw = self._raw or [piece]
        else:
            self._raw.append(piece)
            if self._value.done:
                self._scalar()
        if self._value.failed:
            raise _Unexpected
        if self._value.done:
            self._expect = "after"
        return end

    def _scalar(self) -> None:
        """Note a value that is no object: the name, or arguments that were written as a text or as null."""
        if self._key != "name" and self._key not in _ARGUMENTS:
            return
        value = _loaded("".join(self._raw))
        if self._key in _ARGUMENTS:
            self._given = True
            self._arguments.append(value if isinstance(value, str) else "{}" if value is None else str(value))
        elif (
            not isinstance(value, str) or not value or (self._known is not None and value not in self._known)
        ):
            raise _Unexpected
        else:
            self.name = value

    def _end(self) -> None:
        if self.name is None or (self._known is not None and not self._given):
            raise _Unexpected
        self.done = True
        if not self._given:
            self._arguments.append("{}")


def _loaded(text: str) -> object:
    try:
        value: object = json.loads(text, strict=False)
    except ValueError as error:
        raise _Unexpected from error
    return value
