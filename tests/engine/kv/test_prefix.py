"""The longest start that all groups can use: a full one needs all before it, a sliding one its tail."""

from __future__ import annotations

import random

from slipway_engine.kv.blocks import PADDING_BLOCK, BlockPool
from slipway_engine.kv.prefix import longest_hit

GONE = PADDING_BLOCK


def _names(*texts: str) -> list[list[bytes]]:
    """A name for each block of each group; a dot stands for one that is not known."""
    return [[f"{group}{at}".encode() for at in range(len(text))] for group, text in enumerate(texts)]


def _pool(*texts: str) -> BlockPool:
    pool = BlockPool(300)
    for names, text in zip(_names(*texts), texts, strict=True):
        for name, known in zip(names, text, strict=True):
            if known != ".":
                pool.remember(pool.allocate(1)[0], name)
    return pool


def _hit(reaches: list[int | None], *texts: str) -> list[str]:
    """Each group's part of the hit: o where it has the block, - where it needs none."""
    pool, names = _pool(*texts), _names(*texts)
    found = longest_hit(pool, names, reaches)
    for own, blocks in zip(names, found, strict=True):
        assert all(block in (GONE, pool.block_of(name)) for name, block in zip(own, blocks, strict=False))
    return ["".join("-" if block == GONE else "o" for block in blocks) for blocks in found]


def test_one_group_that_sees_everything_stops_at_the_first_gap() -> None:
    assert _hit([None], "oo.oo") == ["oo"]
    assert _hit([None], ".oooo") == [""]
    assert _hit([None], "") == [""]


def test_one_group_that_slides_needs_its_tail_alone() -> None:
    assert _hit([3], "oo.oo") == ["oo"]
    assert _hit([2], "...oo") == ["---oo"]
    assert _hit([2], ".o.o.") == [""]
    assert _hit([2], "o.o.o") == ["o"]
    assert _hit([0], "...") == ["---"]


def test_groups_agree_on_the_longest_start_that_serves_all() -> None:
    assert _hit([None, 2], "oooooo", "..oooo") == ["oooooo", "----oo"]
    assert _hit([None, 2], "oooo..", "..oooo") == ["oooo", "--oo"]
    assert _hit([None, 2], "oooooo", "oo.o.o") == ["oo", "oo"]
    assert _hit([None, 2, 3], "oooooo", "...ooo", "ooo.oo") == ["", "", ""]
    assert _hit([None, 2, 3], "oooooo", ".ooooo", "ooo.oo") == ["ooo", "-oo", "ooo"]


def test_the_hit_is_the_longest_that_a_plain_search_finds() -> None:
    rng = random.Random(4)
    for _ in range(400):
        length = rng.randint(0, 14)
        reaches = [rng.choice([None, 0, 1, 2, 3, 5]) for _ in range(rng.randint(1, 4))]
        texts = ["".join(rng.choice("oooo.") for _ in range(length)) for _ in reaches]
        best = max(
            end
            for end in range(length + 1)
            if all(
                "." not in text[0 if reach is None else max(0, end - reach) : end]
                for text, reach in zip(texts, reaches, strict=True)
            )
        )
        assert [len(own) for own in _hit(list(reaches), *texts)] == [best] * len(reaches), (reaches, texts)
