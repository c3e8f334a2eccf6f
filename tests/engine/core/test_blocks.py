"""The block pool: counting, sharing, remembering, and what is reused first."""

from __future__ import annotations

import random

import pytest

from slipway_engine.kv.blocks import BlockPool
from slipway_engine.kv.hashing import extend, root


def test_a_released_block_is_reused_before_a_remembered_one_is_forgotten() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(2)
    pool.remember(first, b"a")
    pool.release([first, second])
    assert pool.available == 3
    assert first not in pool.allocate(2)
    assert pool.find([b"a"]) == [first]
    assert pool.allocate(1) == [first]
    assert pool.find([b"a"]) == []


def test_the_longest_unused_content_goes_first() -> None:
    pool = BlockPool(2)
    old, new = pool.allocate(2)
    pool.remember(old, b"old")
    pool.remember(new, b"new")
    pool.release([old])
    pool.release([new])
    pool.share(pool.find([b"old"]))
    pool.release([old])
    assert pool.allocate(1) == [new]
    assert pool.find([b"old"]) == [old]


def test_the_tail_of_a_chain_is_forgotten_before_its_head() -> None:
    pool = BlockPool(3)
    chain = pool.allocate(3)
    for block, digest in zip(chain, (b"1", b"2", b"3"), strict=True):
        pool.remember(block, digest)
    pool.release(chain)
    pool.allocate(1)
    assert pool.find([b"1", b"2", b"3"]) == chain[:2]


def test_a_shared_block_is_free_after_its_last_holder() -> None:
    pool = BlockPool(1)
    blocks = pool.allocate(1)
    pool.remember(blocks[0], b"x")
    pool.share(blocks)
    pool.release(blocks)
    assert pool.available == 0
    pool.release(blocks)
    assert pool.available == 1
    assert pool.idle_among(blocks) == 1


def test_find_stops_at_the_first_unknown_digest() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.remember(first, b"1")
    pool.remember(second, b"3")
    assert pool.find([b"1", b"2", b"3"]) == [first]


def test_the_first_block_of_a_content_keeps_its_name() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.remember(first, b"same")
    pool.remember(second, b"same")
    assert pool.find([b"same"]) == [first]
    pool.release([first, second])
    pool.check()


def test_check_notices_a_lost_block() -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    pool._references.clear()
    with pytest.raises(AssertionError, match="lost"):
        pool.check()


def test_random_use_keeps_the_invariants() -> None:
    rng, pool, held, names = random.Random(5), BlockPool(12), [], 0
    for _ in range(3000):
        if rng.random() < 0.5 and pool.available:
            blocks = pool.allocate(rng.randint(1, pool.available))
            for block in blocks:
                if rng.random() < 0.6:
                    names += 1
                    pool.remember(block, str(names % 40).encode())
            held.append(blocks)
        elif rng.random() < 0.4:
            found = pool.find([str(rng.randrange(40)).encode()])
            pool.share(found)
            held.append(found)
        elif held:
            pool.release(held.pop(rng.randrange(len(held))))
        pool.check()
    for blocks in held:
        pool.release(blocks)
    assert pool.used == 0
    assert pool.available == 12


def test_digests_are_the_same_in_every_process() -> None:
    assert root("").hex().startswith("af5570f5a1810b7a")
    assert extend(root("tenant", "llama", 16), [1, 2, 3]).hex().startswith("426990c96ea39330")


def test_digests_depend_on_salt_facts_parent_and_tokens() -> None:
    made = {
        extend(root("a", "m"), [1, 2]), extend(root("b", "m"), [1, 2]), extend(root("a", "n"), [1, 2]),
        extend(root("a", "m"), [2, 1]), extend(extend(root("a", "m"), [1]), [2]), extend(root("am"), [1, 2]),
    }  # fmt: skip
    assert len(made) == 6
