"""Tokens to text, as they come: what is not yet certain is held back, each token costs the same.

Two things can be uncertain about the newest text: a character whose bytes have not all arrived, and the
beginning of a stop string. `TextStream` holds back exactly those.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

_LONGEST_WAIT = 8  # tokens; a character has at most four bytes
_REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """Turns a growing list of tokens into text, each character once and only when it is whole."""

    def add(self, token_id: int) -> str:
        """Take one more token; return the text that has become certain."""

    def flush(self) -> str:
        """Return the rest; nothing more will come."""


class ByteDetokenizer:
    """For vocabularies in which each token is a run of bytes."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        """Take one more token; return the text that has become certain."""
        return self._decoder.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """Return the rest; nothing more will come."""
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any other vocabulary: decodes a short window twice, with and without its newest tokens.

    The window begins with tokens whose text is already out: some decoders treat a first token differently.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], after: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(after)
        self._out = len(after)  # tokens of the window whose text has been returned

    def add(self, token_id: int) -> str:
        """Take one more token; return the text that has become certain."""
        self._window.append(token_id)
        old, new = self._texts()
        incomplete = new.endswith(_REPLACEMENT) and len(self._window) - self._out <= _LONGEST_WAIT
        if incomplete or len(new) <= len(old):
            return ""
        self._window, self._out = self._window[self._out :], len(self._window) - self._out
        return new[len(old) :]

    def flush(self) -> str:
        """Return the rest; nothing more will come."""
        old, new = self._texts()
        self._window, self._out = [], 0
        return new[len(old) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._window[: self._out]), self._decode(self._window)


@dataclass(slots=True)
class _Node:
    """One state of the automaton: a prefix of a stop string, of length `depth`."""

    depth: int
    edges: dict[str, int]
    fallback: int = 0
    match: str | None = None


class StopAutomaton:
    """Finds the first stop string in a text that comes in pieces (Aho and Corasick, 1975)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._nodes = [_Node(0, {})]
        for stop in stops:
            self._insert(stop)
        self._link()

    def step(self, state: int, character: str) -> int:
        """Return the state after one more character."""
        while state and character not in self._nodes[state].edges:
            state = self._nodes[state].fallback
        return self._nodes[state].edges.get(character, 0)

    def depth(self, state: int) -> int:
        """Return how many of the newest characters may be the beginning of a stop string."""
        return self._nodes[state].depth

    def match(self, state: int) -> str | None:
        """Return the longest stop string that ends here."""
        return self._nodes[state].match

    def _insert(self, stop: str) -> None:
        state = 0
        for depth, character in enumerate(stop, 1):
            edges = self._nodes[state].edges
            if character not in edges:
                edges[character] = len(self._nodes)
                self._nodes.append(_Node(depth, {}))
            state = edges[character]
        self._nodes[state].match = stop

    def _link(self) -> None:
        """Let each state fall back to the longest other prefix that is its suffix, breadth first."""
        queue = deque(self._nodes[0].edges.values())
        while queue:
            state = queue.popleft()
            node = self._nodes[state]
            node.match = node.match or self._nodes[node.fallback].match
            for character, child in node.edges.items():
                self._nodes[child].fallback = self.step(node.fallback, character)
                queue.append(child)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain; `stop` is the stop string that ended it."""

    text: str
    stop: str | None = None


class TextStream:
    """The text of one sequence, as it may be shown."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        automaton: StopAutomaton | None = None,
        *,
        keep_stop: bool = False,
        ignore_stops_for: int = 0,
    ) -> None:
        self._detokenizer = detokenizer
        self._automaton = automaton
        self._keep_stop = keep_stop
        self._unstoppable = ignore_stops_for
        self._state = 0
        self._held = ""

    def add(self, token_id: int) -> Piece:
        """Take one more token."""
        return self._take(self._detokenizer.add(token_id), stoppable=self._may_stop())

    def flush(self) -> Piece:
        """Return what was held back; nothing more will come."""
        piece = self._take(self._detokenizer.flush(), stoppable=self._unstoppable <= 0)
        if piece.stop is not None:
            return piece
        held, self._held = self._held, ""
        return Piece(piece.text + held)

    def _may_stop(self) -> bool:
        self._unstoppable -= 1
        return self._unstoppable < 0

    def _take(self, new: str, *, stoppable: bool) -> Piece:
        if self._automaton is None:
            return Piece(new)
        if not stoppable:
            self._state, held, self._held = 0, self._held, ""
            return Piece(held + new)
        text = self._held + new
        for at, character in enumerate(new, len(self._held) + 1):
            self._state = self._automaton.step(self._state, character)
            if (stop := self._automaton.match(self._state)) is not None:
                self._held = ""
                return Piece(text[: at if self._keep_stop else at - len(stop)], stop)
        certain = len(text) - self._automaton.depth(self._state)
        self._held = text[certain:]
        return Piece(text[:certain])
