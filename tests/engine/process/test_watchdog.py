"""A step is overdue after max(10 s, 5 x its prediction), and only while there is work."""

import pytest

from slipway_engine.process.watchdog import StepWatch


def test_nothing_is_overdue_without_work():
    watch = StepWatch()
    assert watch.overdue(1e9) is None


def test_ten_seconds_are_allowed_where_steps_are_short():
    watch = StepWatch()
    watch.work_began(100.0)
    watch.step_ended(100.1, more_work=True)
    assert watch.overdue(110.0) is None
    assert watch.overdue(110.2) == pytest.approx(10.1)


def test_five_times_the_prediction_where_steps_are_long():
    watch, now = StepWatch(), 0.0
    watch.work_began(now)
    for _ in range(60):
        now += 4.0
        watch.step_ended(now, more_work=True)
    assert watch.allowed == pytest.approx(20, rel=0.01)
    assert watch.overdue(now + 19) is None
    assert watch.overdue(now + 21) == pytest.approx(21)


def test_more_work_does_not_restart_the_clock_of_a_step_that_goes_on():
    watch = StepWatch()
    watch.work_began(0.0)
    watch.work_began(9.0)
    assert watch.overdue(11.0) == pytest.approx(11.0)


def test_the_last_step_of_all_stops_the_clock():
    watch = StepWatch()
    watch.work_began(0.0)
    watch.step_ended(1.0, more_work=False)
    assert watch.overdue(1e6) is None
