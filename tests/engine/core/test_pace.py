"""The step's budget in time: learned, bounded below, and only while somebody streams."""

from __future__ import annotations

from slipway_engine.core.pace import LEAST_CHUNK, STEP_SECONDS, Pace


def test_all_may_go_to_a_prompt_while_nobody_streams() -> None:
    pace = Pace()
    pace.observe(100, 10.0)
    assert pace.budget(0, 512) == 512
    assert Pace().budget(3, 512) == 512


def test_a_step_beside_streams_is_bounded_in_time() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(400, 0.4)
    assert 0.9 * STEP_SECONDS <= pace.budget(4, 512) * 0.001 <= STEP_SECONDS


def test_a_slow_machine_still_advances_every_stream_and_a_chunk() -> None:
    pace = Pace()
    pace.observe(100, 100.0)
    assert pace.budget(20, 512) == 20 + LEAST_CHUNK


def test_small_steps_teach_nothing() -> None:
    pace = Pace()
    pace.observe(4, 1.0)
    assert pace.budget(4, 512) == 512


def test_it_follows_a_machine_that_changes() -> None:
    pace = Pace()
    pace.observe(400, 0.2)
    before = pace.budget(1, 4096)
    for _ in range(30):
        pace.observe(400, 0.8)
    assert pace.budget(1, 4096) < before / 3
