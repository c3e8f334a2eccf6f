"""What each rank of a group has done so far, in plain numbers and as samples of metrics. No torch in here."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

ALL_REDUCE, ALL_TO_ALL, ALL_GATHER, SEND, LOGITS = KINDS = (
    "all_reduce", "all_to_all", "all_gather", "send", "logits",
)  # fmt: skip

METRICS: Final = {
    "group_rank_steps": "Steps that a rank has computed.",
    "group_collective_calls": "Calls that a rank has made to others.",
    "group_collective_bytes": "Bytes that a rank has handed to those calls.",
    "group_expert_tokens": "Tokens that each expert has answered, over all layers.",
}
"""Counters by their names, without what comes before and behind."""


@dataclass(frozen=True, slots=True)
class Counts:
    """`calls` and `sent` (bytes) are in the order of KINDS; `experts` are those from `first` on."""

    rank: int
    steps: int
    calls: tuple[int, ...]
    sent: tuple[int, ...]
    first: int = 0
    experts: tuple[int, ...] = ()

    def numbers(self) -> tuple[int, ...]:
        """Return everything in one row."""
        return (self.rank, self.steps, *self.calls, *self.sent, self.first, *self.experts)

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Counts:
        """Return what such a row says. Raises ValueError where it is too short."""
        row, kinds = tuple(numbers), len(KINDS)
        if len(row) < 3 + 2 * kinds:
            raise ValueError(f"{len(row)} numbers are too few")
        at = 2 + kinds
        return cls(row[0], row[1], row[2:at], row[at : at + kinds], row[at + kinds], row[at + kinds + 1 :])

    def packed(self) -> bytes:
        """Return the row as 64-bit integers."""
        row = self.numbers()
        return struct.pack(f"<{len(row)}q", *row)

    @classmethod
    def unpacked(cls, data: bytes) -> Counts:
        """Return what was packed. Raises ValueError."""
        try:
            return cls.of(struct.unpack(f"<{len(data) // 8}q", data))
        except struct.error as error:
            raise ValueError(str(error)) from error

    def samples(self) -> Iterator[tuple[str, dict[str, str], int]]:
        """Yield the name, the labels and the value of each metric."""
        rank = {"rank": str(self.rank)}
        yield "group_rank_steps", rank, self.steps
        for kind, calls, sent in zip(KINDS, self.calls, self.sent, strict=True):
            yield "group_collective_calls", {**rank, "kind": kind}, calls
            yield "group_collective_bytes", {**rank, "kind": kind}, sent
        for number, tokens in enumerate(self.experts, self.first):
            yield "group_expert_tokens", {**rank, "expert": str(number)}, tokens
