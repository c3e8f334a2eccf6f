"""What rank 0 tells the others of a step, in a fixed binary layout: what to compute, never how.

A step is a few integers a sequence. A sequence keeps a seat, and each rank remembers the block tables of the
seats, so that of a table only what is new is sent. All numbers are little-endian int32:

    step:      rows, groups of layers, copies, then `copies` pairs (source block, target block)
    row:       seat, computed, count, rows of logits, `count` token ids, then for each group of layers
    table:     blocks that left the window, blocks that stay from before, new blocks, then those
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduled
from slipway_engine.kv.blocks import PADDING_BLOCK

_INT: Final = np.dtype("<i4")
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence's part of a step: its new tokens lie at [computed, computed + count)."""

    computed: int
    count: int
    rows: int
    tokens: Sequence[int]
    tables: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Step:
    """Rows in the order in which they are computed, and blocks (source, target) to copy before."""

    rows: Sequence[Row]
    copies: Sequence[tuple[int, int]]


class BadStep(Exception):
    """These bytes are no step."""


class StepWriter:
    """Rank 0's end: it knows what the others remember of each seat."""

    def __init__(self, groups: int, seats: int) -> None:
        self._groups = groups
        self._seats = seats
        self._free = list(range(seats))
        # The requests are held, so that none is taken for another that came to lie at its address.
        self._sitting: OrderedDict[int, tuple[Request, int, list[list[int]]]] = OrderedDict()

    def write(self, plan: Sequence[Scheduled], copies: Mapping[int, int]) -> bytes:
        """Return a step's bytes. No more sequences than seats may be in one step."""
        numbers = [len(plan), self._groups, len(copies)]
        for target, source in copies.items():
            numbers += (source, target)
        for row in plan:
            request = row.request
            seat, known = self._seat(request)
            start = request.computed
            numbers += (seat, start, row.count, row.rows, *request.tokens[start : start + row.count])
            for group, table in enumerate(request.tables):
                slid = request.slid[group]
                before = known[group] if known else []
                keep = _kept(before, table, slid)
                numbers += (slid, keep, len(table) - keep, *table[keep:])
            self._sitting[id(request)] = (request, seat, [list(table) for table in request.tables])
        return np.array(numbers, dtype=_INT).tobytes()

    def _seat(self, request: Request) -> tuple[int, list[list[int]]]:
        """Return the request's seat and the tables that were sent for it; a new one takes the oldest."""
        found = self._sitting.pop(id(request), None)
        if found is not None:
            return found[1], found[2]
        if self._free:
            return self._free.pop(), []
        _, (_, seat, _) = self._sitting.popitem(last=False)
        return seat, []


class StepReader:
    """The other ranks' end."""

    def __init__(self, groups: int, seats: int, blocks: int) -> None:
        self._tables: list[list[list[int]]] = [[[] for _ in range(groups)] for _ in range(seats)]
        self._groups = groups
        self._blocks = blocks

    def read(self, data: bytes) -> Step:
        """Return the step in `data`. Raises BadStep."""
        if len(data) % _INT.itemsize:
            raise BadStep(f"{len(data)} bytes are no whole numbers")
        numbers: list[int] = np.frombuffer(data, dtype=_INT).tolist()
        try:
            step, end = self._step(numbers)
        except (IndexError, ValueError) as error:
            raise BadStep(str(error)) from error
        if end != len(numbers):
            raise BadStep(f"{len(numbers) - end} numbers are left over")
        return step

    def _step(self, numbers: list[int]) -> tuple[Step, int]:
        count, groups, copied = numbers[:3]
        at = 3 + 2 * copied
        if groups != self._groups:
            raise ValueError(f"{groups} groups of layers in place of {self._groups}")
        copies = list(zip(numbers[3:at:2], numbers[4:at:2], strict=True))
        if not 0 <= copied == len(copies) or not self._has([block for pair in copies for block in pair]):
            raise ValueError("a copy lies outside the cache")
        rows = []
        for _ in range(count):
            seat, computed, tokens, wanted = numbers[at : at + 4]
            ids = numbers[at + 4 : at + 4 + tokens]
            if len(ids) != tokens or seat < 0 or computed < 0 or not 0 <= wanted <= tokens:
                raise ValueError("a row is cut short")
            at += 4 + tokens
            tables = self._tables[seat]
            for table in tables:
                at = self._table(numbers, at, table)
            rows.append(Row(computed, tokens, wanted, ids, [list(table) for table in tables]))
        return Step(rows, copies), at

    def _table(self, numbers: list[int], at: int, table: list[int]) -> int:
        slid, keep, new = numbers[at : at + 3]
        blocks = numbers[at + 3 : at + 3 + new]
        if not 0 <= keep <= len(table) or len(blocks) != new or slid > keep + new:
            raise ValueError("a block table does not follow from the last one")
        if not self._has(blocks):
            raise ValueError("a block lies outside the cache")
        table[keep:] = blocks
        table[:slid] = [PADDING_BLOCK] * slid
        return at + 3 + new

    def _has(self, blocks: Sequence[int]) -> bool:
        return not blocks or (min(blocks) >= 0 and max(blocks) <= self._blocks)


def _kept(before: Sequence[int], table: Sequence[int], slid: int) -> int:
    """Return how many of the blocks that were sent are still in their places; slid ones count as such."""
    most = min(len(before), len(table))
    if before[slid:most] == table[slid:most]:
        return most
    keep = slid
    while before[keep] == table[keep]:
        keep += 1
    return keep
