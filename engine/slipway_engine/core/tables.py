"""Block tables: which blocks each sequence reads and writes, over one pool.

A sequence writes only blocks that are its own. Where it is about to write into one that others read too, it
gets a copy first (copy-on-write, Kwon et al. 2023, section 4.4).

A sequence has a table for each group of layers (slipway_api.kv_groups). All are equally long and are shared
and copied together; but blocks that have left a group's window are given back, and the padding block stands
in their places.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway_api.kv_groups import blocks_of
from slipway_engine.core.request import Request
from slipway_engine.kv.blocks import PADDING_BLOCK, BlockPool
from slipway_engine.kv.prefix import longest_hit


class Tables:
    """Grows, shares and frees the tables of requests.

    `windows` holds each group's window in tokens; None sees everything. `copies` {target: source} are the
    blocks to copy before the step that was planned.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        *,
        prefix_caching: bool,
        windows: Sequence[int | None] = (None,),
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.groups = len(windows)
        self.copies: dict[int, int] = {}
        self._prefix_caching = prefix_caching
        self._windows = tuple(windows)
        self._sliding = [(group, window) for group, window in enumerate(windows) if window]
        self._reaches = [self.blocks_for(window - 1) if window else None for window in windows]
        # What a block's name ends with, as groups keep different things of the same tokens.
        self._marks = [bytes([group]) if group else b"" for group in range(self.groups)]

    def blocks_for(self, tokens: int) -> int:
        """Return the blocks of one table that hold so many tokens."""
        return -(-tokens // self.block_size)

    def most(self, tokens: int, chunk: int) -> int:
        """Return the most blocks that a sequence of `tokens` holds at once, computed by up to `chunk`."""
        return blocks_of(self._windows, tokens, chunk, self.block_size)

    def needed(self, request: Request, count: int) -> int:
        """Return the blocks that computing `count` more tokens takes, copies of shared ones included."""
        more = self.blocks_for(request.computed + count) - len(request.tables[0])
        return (more + (self._split(request) is not None)) * self.groups

    def grow(self, request: Request, count: int) -> None:
        """Give the request what `needed` says. The caller has checked that it is available."""
        at = self._split(request)
        if at is not None:
            for table in request.tables:
                (target,) = self.pool.allocate(1)
                self.copies[target] = table[at]
                self.pool.release([table[at]])
                table[at] = target
        more = self.blocks_for(request.computed + count) - len(request.tables[0])
        if more:
            for table in request.tables:
                table += self.pool.allocate(more)

    def hits(self, request: Request) -> list[list[int]]:
        """Return the cached blocks, a table for each group, that the request may start from.

        Its last token is always computed, and so is every one whose logits are owed.
        """
        if not self._prefix_caching:
            return [[] for _ in self._windows]
        usable = len(request.tokens) - 1
        if request.scored < request.score_until:
            usable = min(usable, request.scored)
        digests = request.digests(self.block_size)[: usable // self.block_size]
        names = [[digest + mark for digest in digests] for mark in self._marks]
        return longest_hit(self.pool, names, self._reaches)

    def start(self, request: Request, hits: list[list[int]]) -> None:
        """Let the request begin after the blocks that `hits` returned."""
        request.tables = [list(table) for table in hits]
        request.computed = len(hits[0]) * self.block_size
        request.slid = [table.count(PADDING_BLOCK) for table in hits]
        self.pool.share(held(request))

    def share(self, parent: Request, child: Request) -> None:
        """Let `child`, which holds nothing, read all that `parent` has."""
        child.tables = [list(table) for table in parent.tables]
        child.computed, child.slid = parent.computed, list(parent.slid)
        self.pool.share(held(child))

    def advance(self, request: Request, count: int) -> None:
        """Record that tokens are computed: name the blocks that became full, drop those that nobody sees."""
        full = request.computed // self.block_size
        request.computed += count
        if self._prefix_caching and request.computed // self.block_size > full:
            digests = request.digests(self.block_size)
            for table, mark in zip(request.tables, self._marks, strict=True):
                for index in range(full, request.computed // self.block_size):
                    self.pool.remember(table[index], digests[index] + mark)
        for group, window in self._sliding:
            self._slide(request, group, max(0, request.computed - window + 1) // self.block_size)

    def release(self, request: Request) -> None:
        """Give all blocks back; nothing is computed any more."""
        self.pool.release(held(request))
        request.tables, request.slid = [], []
        request.computed = 0

    def _split(self, request: Request) -> int | None:
        """Return the place of the blocks that the next token goes into, where others read them too.

        A block is shared from its first token on, so those of all groups are, or none.
        """
        at, table = request.computed // self.block_size, request.tables[0]
        return at if at < len(table) and self.pool.is_shared(table[at]) else None

    def _slide(self, request: Request, group: int, gone: int) -> None:
        slid = request.slid[group]
        if gone > slid:
            table = request.tables[group]
            self.pool.release(table[slid:gone])
            table[slid:gone] = [PADDING_BLOCK] * (gone - slid)
            request.slid[group] = gone


def held(request: Request) -> list[int]:
    """Return the blocks that the request holds a reference to, by their places in the sequence."""
    if len(request.tables) == 1:
        return request.tables[0][request.slid[0] :]
    return [block for place in zip(*request.tables, strict=True) for block in place if block != PADDING_BLOCK]
