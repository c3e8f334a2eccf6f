"""Block tables: which blocks each sequence reads and writes, over one pool.

A sequence writes only blocks that are its own. Where it is about to write into one that others read too, it
gets a copy first (copy-on-write, Kwon et al. 2023, section 4.4). Blocks that have left the window of every
layer are given back, and the padding block stands in their places.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway_engine.core.request import Request
from slipway_engine.kv.blocks import PADDING_BLOCK, BlockPool


class Tables:
    """Grows, shares and frees the tables of requests.

    `window` is the widest of a model whose layers all slide, in tokens; None where a layer sees everything.
    `copies` {target: source} are the blocks to copy before the step that was planned.
    """

    def __init__(self, pool: BlockPool, block_size: int, *, prefix_caching: bool, window: int | None) -> None:
        self.pool = pool
        self.block_size = block_size
        self.copies: dict[int, int] = {}
        self._prefix_caching = prefix_caching
        self._window = window

    def blocks_for(self, tokens: int) -> int:
        """Return the blocks that hold so many tokens."""
        return -(-tokens // self.block_size)

    def most(self, tokens: int, chunk: int) -> int:
        """Return the most blocks that a sequence of `tokens` holds at once, computed by up to `chunk`."""
        whole = self.blocks_for(tokens)
        if self._window is None:
            return whole
        return min(whole, self.blocks_for(self._window - 1 + chunk) + 2)

    def needed(self, request: Request, count: int) -> int:
        """Return the blocks that computing `count` more tokens takes, a copy of a shared one included."""
        return (
            self.blocks_for(request.computed + count)
            - len(request.blocks)
            + (self._split(request) is not None)
        )

    def grow(self, request: Request, count: int) -> None:
        """Give the request what `needed` says. The caller has checked that it is available."""
        at = self._split(request)
        if at is not None:
            (target,) = self.pool.allocate(1)
            self.copies[target] = request.blocks[at]
            self.pool.release([request.blocks[at]])
            request.blocks[at] = target
        request.blocks += self.pool.allocate(self.blocks_for(request.computed + count) - len(request.blocks))

    def hits(self, request: Request) -> list[int]:
        """Return the cached blocks that the request may start from.

        Its last token is always computed, and so is every one whose logits are owed.
        """
        if not self._prefix_caching:
            return []
        usable = len(request.tokens) - 1
        if request.scored < request.score_until:
            usable = min(usable, request.scored)
        digests = request.digests(self.block_size)[: usable // self.block_size]
        if self._window is None:
            return self.pool.find(digests)
        return self.pool.find_tail(digests, self.blocks_for(self._window - 1))

    def start(self, request: Request, hits: list[int]) -> None:
        """Let the request begin after the blocks that `hits` returned."""
        request.blocks = list(hits)
        request.computed = len(hits) * self.block_size
        request.slid = next((at for at, block in enumerate(hits) if block != PADDING_BLOCK), 0)
        self.pool.share(held(request))

    def share(self, parent: Request, child: Request) -> None:
        """Let `child`, which holds nothing, read all that `parent` has."""
        child.blocks, child.computed, child.slid = list(parent.blocks), parent.computed, parent.slid
        self.pool.share(held(child))

    def advance(self, request: Request, count: int) -> None:
        """Record that tokens are computed: name the blocks that became full, drop those that nobody sees."""
        full = request.computed // self.block_size
        request.computed += count
        if self._prefix_caching and request.computed // self.block_size > full:
            digests = request.digests(self.block_size)
            for index in range(full, request.computed // self.block_size):
                self.pool.remember(request.blocks[index], digests[index])
        if self._window is not None:
            self._slide(request, max(0, request.computed - self._window + 1) // self.block_size)

    def release(self, request: Request) -> None:
        """Give all blocks back; nothing is computed any more."""
        self.pool.release(held(request))
        request.blocks = []
        request.computed = request.slid = 0

    def _split(self, request: Request) -> int | None:
        """Return the place of the block that the next token goes into, where others read that block too."""
        at = request.computed // self.block_size
        if at < len(request.blocks) and self.pool.is_shared(request.blocks[at]):
            return at
        return None

    def _slide(self, request: Request, gone: int) -> None:
        if gone > request.slid:
            self.pool.release(request.blocks[request.slid : gone])
            request.blocks[request.slid : gone] = [PADDING_BLOCK] * (gone - request.slid)
            request.slid = gone


def widest_window(windows: Sequence[int | None]) -> int | None:
    """Return how far back any layer sees, or None where one sees everything."""
    widest = 0
    for window in windows:
        if not window:
            return None
        widest = max(widest, window)
    return widest or None


def held(request: Request) -> list[int]:
    """Return the blocks that the request holds a reference to."""
    return request.blocks[request.slid :]
