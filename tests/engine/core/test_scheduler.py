"""The one rule, without a model: who gets which tokens, whose blocks are given back, what waits."""

from __future__ import annotations

from typing import Any

import pytest

from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduled, Scheduler
from slipway_engine.errors import RequestError
from slipway_engine.kv.blocks import BlockPool
from slipway_engine.kv.hashing import root
from slipway_engine.sampling import SamplingParams


class World:
    """A scheduler, and a step that only counts."""

    def __init__(self, blocks: int = 100, **settings: Any) -> None:
        base: dict[str, Any] = {
            "block_size": 4, "max_num_seqs": 4, "max_batch_tokens": 16, "max_waiting": 10,
            "prefix_caching": True,
        }  # fmt: skip
        self.scheduler = Scheduler(BlockPool(blocks), **{**base, **settings})
        self.added = self.order = 0

    def add(self, length: int, first: int = 0, priority: int = 0, salt: str = "") -> Request:
        self.added += 1
        self.order += 1
        request = Request(
            id=f"r{self.added}",
            tokens=list(range(first, first + length)),
            prompt_length=length,
            limit=1000,
            sampling=SamplingParams(max_tokens=500),
            stop_ids=frozenset(),
            key=(priority, 0.0, self.order),
            chain=[root(salt)],
            stream=0,
        )
        self.scheduler.add(request)
        return request

    def step(self) -> dict[str, int]:
        plan = self.scheduler.schedule()
        for row in plan:
            sampled = row.samples
            self.scheduler.advance(row)
            if sampled:
                row.request.tokens.append(7)
        self.scheduler.check()
        return _counts(plan)


def _counts(plan: list[Scheduled]) -> dict[str, int]:
    return {row.request.id: row.count for row in plan}


def test_a_prompt_is_computed_in_chunks_of_the_budget() -> None:
    world = World()
    request = world.add(40)
    assert [world.step() for _ in range(4)] == [{"r1": 16}, {"r1": 16}, {"r1": 8}, {"r1": 1}]
    assert request.output_length == 2


def test_running_streams_advance_in_every_step_of_a_long_prompt() -> None:
    world = World()
    world.add(3)
    world.step()
    world.add(40, first=100)
    assert [world.step() for _ in range(4)] == [
        {"r1": 1, "r2": 15},
        {"r1": 1, "r2": 15},
        {"r1": 1, "r2": 10},
        {"r1": 1, "r2": 1},
    ]


def test_first_come_first_served_and_priority_before_that() -> None:
    world = World(max_num_seqs=1)
    first, second, urgent = world.add(3), world.add(3, 50), world.add(3, 90, priority=-1)
    assert list(world.step()) == [urgent.id]
    world.scheduler.remove(urgent)
    assert list(world.step()) == [first.id]
    world.scheduler.remove(first)
    assert list(world.step()) == [second.id]


def test_no_more_run_than_there_are_seats() -> None:
    world = World(max_num_seqs=2)
    for index in range(4):
        world.add(2, first=10 * index)
    assert len(world.step()) == 2
    assert world.scheduler.waiting == 2


def test_a_full_queue_refuses_with_429() -> None:
    world = World(max_waiting=2)
    world.add(2)
    world.add(2)
    with pytest.raises(RequestError) as refused:
        world.add(2)
    assert (refused.value.status, refused.value.code) == (429, "queue_full")


def test_the_second_of_two_equal_prompts_computes_only_its_tail() -> None:
    world = World()
    world.add(14)
    world.step()
    second = world.add(14)
    assert world.step()["r2"] == 2
    assert second.cached_tokens == 12
    assert world.scheduler.counters.prefix_hits == 12
    assert world.scheduler.counters.prefix_queries == 28


def test_at_least_one_token_of_a_fully_cached_prompt_is_computed() -> None:
    world = World()
    world.add(12)
    world.step()
    world.add(12)
    assert world.step()["r2"] == 4


def test_salts_share_nothing() -> None:
    world = World()
    world.add(14, salt="a")
    world.step()
    assert world.add(14, salt="b") is not None
    assert world.step()["r2"] == 14


def test_without_prefix_caching_nothing_is_shared() -> None:
    world = World(prefix_caching=False)
    world.add(14)
    world.step()
    world.add(14)
    assert world.step()["r2"] == 14
    assert world.scheduler.counters.prefix_hits == 0


def test_when_blocks_run_out_the_last_in_line_gives_its_own_back() -> None:
    world = World(blocks=6)
    first, second = world.add(8), world.add(7, first=50)
    world.step()
    while not second.preemptions:
        world.step()
    assert first.computed > 8
    assert second.tables == []
    assert world.scheduler.waiting == 1
    tokens = list(second.tokens)
    world.scheduler.remove(first)
    while second.debt != 1 or second.computed < len(tokens):
        world.step()
    assert second.tokens[: len(tokens)] == tokens
    assert second.output_length > len(tokens) - 7


def test_a_request_of_higher_priority_keeps_its_blocks() -> None:
    world = World(blocks=6)
    low, high = world.add(8, priority=1), world.add(7, first=50, priority=0)
    world.step()
    while not (low.preemptions or high.preemptions):
        world.step()
    assert (low.preemptions, high.preemptions) == (1, 0)


def test_removing_frees_running_and_waiting_alike() -> None:
    world = World(max_num_seqs=1)
    running, waiting = world.add(9), world.add(9, first=50)
    world.step()
    world.scheduler.remove(waiting)
    world.scheduler.remove(running)
    assert world.scheduler.pool.used == 0
    assert world.step() == {}


def test_an_id_can_come_back_after_it_was_removed() -> None:
    world = World(max_num_seqs=1)
    world.add(2)
    world.step()
    gone = world.add(3, first=40)
    world.scheduler.remove(gone)
    world.added -= 1
    again = world.add(5, first=60)
    assert again.id == gone.id
    world.scheduler.remove(world.scheduler.running[0])
    assert world.step() == {again.id: 5}
    assert world.scheduler.running == [again]


def test_a_smaller_budget_for_one_step() -> None:
    world = World()
    world.add(40)
    assert _counts(world.scheduler.schedule(budget=5)) == {"r1": 5}
