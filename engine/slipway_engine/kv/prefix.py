"""Which cached blocks a sequence can start from, where its groups of layers need different ones of them.

A group that sees everything needs all blocks before the start, one that slides those of its window; the
longest start for which each has what it needs is a hit.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway_engine.kv.blocks import PADDING_BLOCK, BlockPool


def longest_hit(
    pool: BlockPool, names: Sequence[Sequence[bytes]], reaches: Sequence[int | None]
) -> list[list[int]]:
    """Return each group's blocks of the longest start that all can use, without taking them.

    `names` holds each group's names of the blocks, in order; `reaches` how many before the start it needs,
    None for all. The padding block stands for those that are not needed.
    """
    end = min((len(pool.find(own)) for own, reach in zip(names, reaches, strict=True) if reach is None),
              default=len(names[0]))  # fmt: skip
    sliding = [at for at, reach in enumerate(reaches) if reach is not None]
    lows = dict.fromkeys(sliding, end)  # down to where a group has everything before `end`
    settled = False
    while not settled:
        settled = True
        for group in sliding:
            low = min(lows[group], end)
            while low > max(0, end - (reaches[group] or 0)):
                low -= 1
                if pool.block_of(names[group][low]) is None:
                    # Every start after this one, up to the one looked at, needs it.
                    end, settled = low, False
            lows[group] = low
    return [_blocks(pool, own[:end], reach) for own, reach in zip(names, reaches, strict=True)]


def _blocks(pool: BlockPool, names: Sequence[bytes], reach: int | None) -> list[int]:
    needed = len(names) if reach is None else min(reach, len(names))
    return [PADDING_BLOCK] * (len(names) - needed) + pool.find(names[len(names) - needed :])
