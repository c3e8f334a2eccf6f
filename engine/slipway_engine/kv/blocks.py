"""Who holds which block of the KV cache, and what the free ones still remember.

Every block is in exactly one state: held (counted references), idle (free, but its content has a digest and
may be hit again), or blank (free, nothing worth keeping). Blank blocks are taken first, then the idle block
that was released longest ago. Block 0 is never handed out: it pads block tables.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

PADDING_BLOCK = 0


class BlockPool:
    """Reference counts, free lists and the prefix index over the blocks [1, total]."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._references: dict[int, int] = {}
        self._blank = list(range(total, 0, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that `allocate` could hand out."""
        return len(self._blank) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return len(self._references)

    def allocate(self, count: int) -> list[int]:
        """Hand out `count` blocks, each with one reference. The caller has checked `available`."""
        blocks = [self._take() for _ in range(count)]
        self._references.update(dict.fromkeys(blocks, 1))
        return blocks

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix of `digests`, without taking them."""
        found = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def block_of(self, digest: bytes) -> int | None:
        """Return the block of a known content."""
        return self._block_of.get(digest)

    def is_shared(self, block: int) -> bool:
        """Say whether a held block has more than one reference."""
        return self._references[block] > 1

    def idle_among(self, blocks: Sequence[int]) -> int:
        """Count the blocks that sharing would take from those available."""
        return sum(block in self._idle for block in blocks)

    def share(self, blocks: Sequence[int]) -> None:
        """Add one reference to each of these found blocks."""
        for block in blocks:
            self._idle.pop(block, None)
            self._references[block] = self._references.get(block, 0) + 1

    def remember(self, block: int, digest: bytes) -> None:
        """Name a full block's content; the first block of a content keeps the name."""
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference of each; a chain's tail becomes free before its head, so it is reused first."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                del self._references[block]
                self._free(block)

    def references(self) -> dict[int, int]:
        """Return a copy of the reference counts of the held blocks."""
        return dict(self._references)

    def check(self) -> None:
        """Assert that every block is in exactly one state and the index is one to one."""
        held, idle, blank = set(self._references), set(self._idle), set(self._blank)
        assert len(blank) == len(self._blank), "a blank block is listed twice"
        states = len(held) + len(idle) + len(blank)
        assert states == len(held | idle | blank), "a block is in two states"
        assert held | idle | blank == set(range(1, self.total + 1)), "a block is lost"
        assert all(count > 0 for count in self._references.values()), "a held block has no reference"
        assert {block: digest for digest, block in self._block_of.items()} == self._digest_of
        assert idle <= self._digest_of.keys(), "an idle block has no digest"
        assert not blank & self._digest_of.keys(), "a blank block has a digest"

    def _take(self) -> int:
        if self._blank:
            return self._blank.pop()
        block, _ = self._idle.popitem(last=False)
        del self._block_of[self._digest_of.pop(block)]
        return block

    def _free(self, block: int) -> None:
        if block in self._digest_of:
            self._idle[block] = None
        else:
            self._blank.append(block)
