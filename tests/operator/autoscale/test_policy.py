"""The autoscaling policy: what it never does, and what it does in the situations that hurt others."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slipway_operator.autoscale.capacity import Learned, capacity, learn
from slipway_operator.autoscale.demand import Moment, growth, settled, traffic
from slipway_operator.autoscale.load import Load, PodLoad
from slipway_operator.autoscale.needs import Metric, Need
from slipway_operator.autoscale.policy import counted, decide
from slipway_operator.autoscale.terms import Bounds, Decision, Memory, Why

BOUNDS = Bounds(minimum=1, maximum=8, max_num_seqs=10)


def pods(now: float, *requests: float, waiting: float = 0.0) -> tuple[PodLoad, ...]:
    return tuple(PodLoad(f"p{i}", now, r, waiting) for i, r in enumerate(requests))


def look(now: float, current: int, *requests: float, waiting: float = 0.0, **more: object) -> Load:
    load = Load(now, current, len(requests), pods(now, *requests, waiting=waiting))
    return replace(load, **more)  # type: ignore[arg-type]


def play(bounds: Bounds, memory: Memory, loads: list[Load]) -> tuple[list[Decision], Memory]:
    decisions = []
    for load in loads:
        decision, memory = decide(bounds, memory, load)
        decisions.append(decision)
    return decisions, memory


def test_up_follows_the_load_and_replicas_on_their_way_count() -> None:
    decision, memory = decide(BOUNDS, Memory(), look(0, 1, 10, waiting=6))
    assert (decision.replicas, decision.why) == (2, Why.UP)
    again, _ = decide(BOUNDS, memory, Load(40, 2, 1, pods(40, 10, waiting=6)))
    assert again.replicas == 2  # the second one is on its way
    assert "16.0 requests in flight" in decision.text


def test_steps_up_are_bounded_in_size_and_time() -> None:
    flood = look(0, 1, 10, waiting=500)
    decision, memory = decide(replace(BOUNDS, maximum=100), Memory(), flood)
    assert decision.replicas == 5
    soon, _ = decide(
        replace(BOUNDS, maximum=100),
        memory,
        replace(flood, now=10, current=5, pods=pods(10, 10, waiting=500)),
    )
    assert (soon.replicas, soon.why) == (5, Why.WAITING)


def test_after_a_restart_nothing_is_taken_away_before_the_window_has_passed() -> None:
    loads = [look(now, 6, *[0.5] * 6) for now in range(0, 290, 10)]
    decisions, memory = play(BOUNDS, Memory(), loads)
    assert {decision.replicas for decision in decisions} == {6}
    later, _ = play(BOUNDS, memory, [look(now, 6, *[0.5] * 6) for now in range(290, 330, 10)])
    assert any(decision.why == Why.DOWN for decision in later)


def test_a_silent_pod_counts_as_full_before_anything_is_taken_away() -> None:
    memory = play(BOUNDS, Memory(), [look(now, 2, 1, 1) for now in range(0, 300, 10)])[1]
    silent = [Load(now, 2, 2, pods(now, 1)) for now in range(300, 900, 10)]
    assert {decision.replicas for decision in play(BOUNDS, memory, silent)[0]} == {2}


def test_when_all_are_silent_nothing_moves_until_the_fallback() -> None:
    blind = [Load(now, 3, 3, pods(0, 9, 9, 9)) for now in range(100, 500, 10)]
    decisions, _ = play(BOUNDS, Memory(), blind)
    assert {(d.replicas, d.why) for d in decisions} == {(3, Why.STALE)}
    decisions, _ = play(replace(BOUNDS, fallback=5), Memory(), blind)
    assert decisions[0].replicas == 3
    assert (decisions[-1].replicas, decisions[-1].why) == (5, Why.FALLBACK)


def test_zero_needs_a_gateway_and_a_long_silence_and_a_held_request_ends_it() -> None:
    bounds = replace(BOUNDS, minimum=0)
    quiet = [look(now, 1, 0, held=0.0) for now in range(0, 700, 10)]
    decisions, memory = play(bounds, Memory(), quiet)
    assert decisions[-1].replicas == 0
    assert all(d.replicas == 1 for load, d in zip(quiet, decisions, strict=True) if load.now < 600)
    woken, _ = decide(bounds, memory, Load(800, 0, 0, (), held=3.0))
    assert (woken.replicas, woken.why) == (1, Why.FROM_ZERO)
    without, _ = play(bounds, Memory(), [replace(load, held=None) for load in quiet])
    assert {d.replicas for d in without} == {1}
    assert decide(bounds, Memory(), Load(0, 0, 0))[0].replicas == 1  # nobody could wake it


def test_a_rollout_and_waiting_requests_forbid_taking_away() -> None:
    memory = play(BOUNDS, Memory(), [look(now, 4, 1, 1, 1, 1) for now in range(0, 300, 10)])[1]
    for load in (look(400, 4, 1, 1, 1, 1, rolling=True), look(400, 4, 1, 1, 1, 1, waiting=1)):
        decision, _ = decide(BOUNDS, memory, load)
        assert (decision.replicas, decision.why) == (4, Why.WAITING)


def test_a_latency_multiplies_the_replicas_that_serve_and_not_those_that_load() -> None:
    bounds = Bounds(1, 50, metrics=(Metric("TimeToFirstToken", 2.0),))
    decision, _ = decide(bounds, Memory(), Load(0, 8, 4, pods(0, 1, 1, 1, 1), ttft=4.0))
    assert decision.replicas == 8


def test_capacity_is_learned_from_the_time_per_token() -> None:
    learned = Learned()
    for step in range(60):
        running = 4 + step % 16
        learned = learn(learned, [PodLoad("p", step, running, 0, tpot=0.02 + 0.005 * running)], step)
    line = learned.line()
    assert line is not None
    assert math.isclose(line[0], 0.02, abs_tol=1e-6)
    bears, why = capacity(learned, 64, tpot_slo=0.1)
    assert math.isclose(bears, (0.09 - 0.02) / 0.005, rel_tol=1e-3)
    assert why == "the time per output token"


def test_a_crowd_that_is_too_slow_bounds_the_capacity_before_a_line_can_be_fitted() -> None:
    learned = learn(Learned(), [PodLoad("p", 0, 50, 0, tpot=0.2)], 0)
    bears, why = capacity(learned, 64, tpot_slo=0.1)
    assert math.isclose(bears, 50 * 0.09 / 0.2)
    assert why == "the time per output token"
    assert capacity(learned, 64, tpot_slo=0.3) == (64, "maxNumSeqs")


def test_noise_is_no_growth() -> None:
    noise = [Moment(10.0 * i, 50.0 + (-1) ** i * 5, 20.0 * i) for i in range(12)]
    assert growth(noise) == 0
    ramp = [Moment(10.0 * i, 50.0, 0.5 * (10.0 * i) ** 2) for i in range(12)]
    assert 0.8 < growth(ramp) < 1.0  # requests a second gained each second, less what chance might have done


def test_crowded_replicas_hold_requests_longer_and_that_is_no_traffic() -> None:
    """A steady stream that slows down piles up: what is in the system triples, what is asked for does not."""
    steady = [Moment(10.0 * i, 20.0, 20.0 * i) for i in range(13)]
    piled = [Moment(10.0 * i, 20.0 + 4 * i, 16.0 * i) for i in range(13)]
    for moments in (steady, piled):
        found = traffic(moments, 120)
        assert found is not None
        assert math.isclose(found.now, 2.0, rel_tol=0.01)
        assert math.isclose(found.soon, 2.0, rel_tol=0.01)
    crowded = settled(22.0, 0.0, traffic(piled, 120), 10.0)
    assert (crowded.now, crowded.lasting) == (22.0, 20.0)


def test_growth_is_followed_for_as_long_as_a_start_takes_and_spares_do_not_add_to_it() -> None:
    ramp = [
        Moment(5.0 * i, 0.0, 10.0 * i + 0.01 * (5.0 * i) ** 2) for i in range(25)
    ]  # 2/s, and 0.02/s more each s
    near, far = traffic(ramp, 30), traffic(ramp, 120)
    assert near is not None
    assert far is not None
    assert near.now == far.now
    assert 0 < near.soon - near.now < far.soon - far.now
    assert traffic(ramp[:4], 120) is None  # too short to tell
    text = "x"
    assert counted(Need(2.0, 2.0, text, soon=2.5), 2) == 4
    assert counted(Need(2.0, 2.0, text, soon=5.5), 2) == 6


def test_a_peak_of_the_last_hour_still_fits_and_is_then_forgotten() -> None:
    bounds = replace(BOUNDS, metrics=(Metric("InFlight", 8.0),))
    busy = [look(now, 4, 7, 7, 7, 7) for now in range(0, 600, 10)]  # 28 in flight: 2.8 replicas to the brim
    decisions, memory = play(bounds, Memory(), busy)
    assert decisions[-1].replicas == 4
    counts, now = [], 600
    current = 4
    while now < 5000:
        decision, memory = decide(bounds, memory, look(now, current, *[0.5] * current))
        counts.append((now, decision.replicas))
        current, now = decision.replicas, now + 10
    assert {count for at, count in counts if 1100 < at < 4100} == {3}
    assert counts[-1][1] == 1


def test_nothing_is_taken_away_within_five_minutes_of_a_step_up() -> None:
    decision, memory = decide(BOUNDS, Memory(), look(0, 1, 10, waiting=6))
    assert decision.replicas == 2
    later = [look(now, 2, 0.5, 0.5) for now in range(10, 300, 10)]
    assert {one.replicas for one in play(BOUNDS, memory, later)[0]} == {2}


sample = st.builds(
    lambda age, running, waiting, kv: (age, running, waiting, kv),
    st.floats(0, 100), st.floats(0, 80), st.floats(0, 200), st.floats(0, 1),
)  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Bounds, list[tuple[int, list[tuple[float, ...]], float | None, bool]]]:
    low = draw(st.integers(0, 4))
    bounds = Bounds(
        low, draw(st.integers(max(1, low), 12)), draw(st.integers(0, 2)), tpot=draw(st.none() | st.just(0.1)),
        max_num_seqs=draw(st.integers(1, 64)), fallback=draw(st.none() | st.integers(1, 12)),
    )  # fmt: skip
    steps = draw(
        st.lists(
            st.tuples(
                st.integers(0, 3),  # replicas that are not ready
                st.lists(sample, max_size=4),
                st.none() | st.floats(0, 50),
                st.booleans(),
            ),
            min_size=1,
            max_size=25,
        )
    )
    return bounds, steps


@given(worlds())
def test_whatever_happens_the_bounds_hold_and_missing_is_never_zero(
    world: tuple[Bounds, list[tuple[int, list[tuple[float, ...]], float | None, bool]]],
) -> None:
    bounds, steps = world
    memory, current, now = Memory(), max(1, bounds.minimum), 0.0
    for missing, samples, held, rolling in steps:
        now += 10
        ready = max(0, current - missing)
        found = tuple(PodLoad(f"p{i}", now - s[0], *s[1:]) for i, s in enumerate(samples[:ready]))
        load = Load(now, current, ready, found, held, rolling=rolling)
        decision, memory = decide(bounds, memory, load)
        again, _ = decide(bounds, replace(memory), replace(load, now=now))
        assert 0 <= decision.replicas <= max(bounds.maximum, 1)
        assert again.replicas <= max(bounds.maximum, 1)
        assert decision.replicas > 0 or (bounds.minimum == 0 and held is not None)
        assert decision.text
        shrinks = decision.replicas < current <= bounds.maximum
        if shrinks:
            assert not load.blind
            assert load.silent == 0
            assert not rolling
            assert ready >= current
        current = decision.replicas
