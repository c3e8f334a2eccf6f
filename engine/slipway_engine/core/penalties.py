"""How often each token has occurred in a sequence: counted as tokens come, never again from the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]

_SPARE = 64


class Counts:
    """The distinct tokens of a prompt and its output, and how often each occurs in the output alone."""

    def __init__(self, tokens: Sequence[int], prompt_length: int) -> None:
        distinct = np.unique(np.array(tokens[:prompt_length], dtype=np.int64))
        self._used = len(distinct)
        self._ids = np.concatenate([distinct, np.zeros(_SPARE, dtype=np.int64)])
        self._outputs = np.zeros(len(self._ids), dtype=np.int64)
        self._place = {token: at for at, token in enumerate(distinct.tolist())}
        for token in tokens[prompt_length:]:
            self.add(token)

    @property
    def ids(self) -> Integers:
        """The distinct tokens, in the order of their first occurrence after the prompt's."""
        return self._ids[: self._used]

    @property
    def outputs(self) -> Integers:
        """How often each of `ids` occurs in the output."""
        return self._outputs[: self._used]

    def add(self, token: int) -> None:
        """Count one output token."""
        at = self._place.get(token)
        if at is None:
            at = self._place[token] = self._used
            if at == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros(at, dtype=np.int64)])
                self._outputs = np.concatenate([self._outputs, np.zeros(at, dtype=np.int64)])
            self._ids[at] = token
            self._used += 1
        self._outputs[at] += 1

    def copy(self) -> Counts:
        """Return counts that go their own way from here."""
        twin = object.__new__(Counts)
        twin._used = self._used
        twin._ids, twin._outputs = self._ids.copy(), self._outputs.copy()
        twin._place = dict(self._place)
        return twin
