"""The rollout planner against simulated worlds: it ends, it rests, and never takes away what must serve."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slipway_operator.plan.rollout import SURGE_PATIENCE, Goal, Phase, Running, next_step

TICK = 20.0


@dataclass
class Pod:
    revision: str
    state: str = "new"  # new -> pending | loading -> ready; leaving
    age: int = 0
    since: float = 0.0


@dataclass
class World:
    """Deployments, pods and accelerators: each pod takes one slot, until it is gone."""

    slots: int
    broken: frozenset[str] = frozenset()
    load_ticks: int = 2
    drain_ticks: int = 2
    replicas: dict[str, int] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)
    proven: set[str] = field(default_factory=set)
    pods: list[Pod] = field(default_factory=list)
    now: float = 1000.0
    writes: int = 0

    def of(self, revision, *states):
        return [p for p in self.pods if p.revision == revision and p.state in states]

    def seen(self):
        return [
            Running(
                revision=name,
                replicas=replicas,
                pods=len(self.of(name, "new", "pending", "loading", "ready")),
                ready=len(self.of(name, "ready")),
                unschedulable=tuple(p.since for p in self.of(name, "pending")),
                proven=name in self.proven,
                in_place=name in self.marked,
            )
            for name, replicas in self.replicas.items()
        ]

    @property
    def ready(self):
        return sum(p.state == "ready" for p in self.pods)

    def serving(self):
        """Return how many serve for certain once the Deployments have done what they were told."""
        return sum(min(r, len(self.of(n, "ready"))) for n, r in self.replicas.items())

    def operate(self, goal):
        """Let the operator take one step; return it and whether it wrote anything."""
        before = self.serving()
        step = next_step(goal, self.seen(), self.now)
        for name in step.gone:
            assert not self.of(name, "new", "pending", "loading", "ready")
            assert self.replicas[name] == 0
        wrote = bool(step.gone)
        for name in step.gone:
            del self.replicas[name]
        for name, count in step.replicas.items():
            assert count >= 0
            wrote |= self.replicas.get(name) != count
            self.replicas[name] = count
        marked = {step.in_place} - {None}
        gave_up = marked - self.marked
        wrote |= (self.marked & set(step.replicas)) != marked
        self.marked = (self.marked - set(step.replicas)) | marked
        unavailable = goal.unavailable(bool(step.in_place))
        assert self.serving() >= min(before, max(0, goal.wanted - unavailable)), step
        assert sum(r > 0 for r in self.replicas.values()) <= 2
        if not gave_up:
            total = sum(self.replicas.values())
            assert total <= goal.wanted + goal.max_surge or total == self.serving(), step
        self.writes += wrote
        return step, wrote

    def controllers(self):
        """Do what Kubernetes does: remove what does not serve first, add what is missing."""
        for name in sorted({p.revision for p in self.pods} | set(self.replicas)):
            staying = self.of(name, "new", "pending", "loading", "ready")
            wanted = self.replicas.get(name, 0)
            order = ["new", "pending", "loading", "ready"]
            for pod in sorted(staying, key=lambda p: order.index(p.state))[: max(0, len(staying) - wanted)]:
                if pod.state in ("new", "pending"):
                    self.pods.remove(pod)
                else:
                    pod.state, pod.age = "leaving", 0
            self.pods += [Pod(name) for _ in range(wanted - len(staying))]

    def tick(self):
        self.now += TICK
        self.pods = [p for p in self.pods if not (p.state == "leaving" and p.age >= self.drain_ticks)]
        for pod in self.pods:
            pod.age += 1
            if pod.state in ("new", "pending"):
                used = sum(p.state in ("loading", "ready", "leaving") for p in self.pods)
                if used < self.slots:
                    pod.state, pod.age = "loading", 0
                elif pod.state == "new":
                    pod.state, pod.since = "pending", self.now
            elif pod.state == "loading" and pod.age >= self.load_ticks and pod.revision not in self.broken:
                pod.state = "ready"

    def settle(self, goal, ticks=400):
        """Run until nothing has been written, and nothing has moved, for longer than patience lasts."""
        quiet = 0
        for _ in range(ticks):
            step, wrote = self.operate(goal)
            self.controllers()
            before = [(p.revision, p.state) for p in self.pods]
            self.tick()
            moved = before != [(p.revision, p.state) for p in self.pods]
            self.proven |= {goal.target} if step.phase is Phase.DONE and self.ready == goal.wanted else set()
            quiet = 0 if wrote or moved else quiet + 1
            if quiet > SURGE_PATIENCE / TICK + 3:
                return step
        raise AssertionError(f"no fixed point: {self}")


def serving(revision="a", wanted=3, **world):
    """Return a world in which `revision` serves."""
    made = World(**{"slots": 100, **world})
    assert made.settle(Goal(revision, wanted)).phase is Phase.DONE
    assert made.ready == wanted
    return made


def test_the_first_revision_gets_everything_at_once():
    world = World(slots=9)
    step, _ = world.operate(Goal("a", 5))
    assert step.replicas == {"a": 5}
    assert world.settle(Goal("a", 5)).phase is Phase.DONE


def test_with_room_one_more_is_started_and_the_old_ones_go_as_the_new_ones_serve():
    world = serving()
    step, _ = world.operate(Goal("b", 3))
    assert step.replicas == {"a": 3, "b": 1}
    least = 99
    for _ in range(60):
        world.controllers()
        world.tick()
        world.operate(Goal("b", 3))
        least = min(least, world.ready)
    assert least == 3
    assert world.replicas == {"b": 3}


@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_on_full_accelerators_it_goes_in_place_one_at_a_time(wanted):
    world = serving(wanted=wanted, slots=wanted)
    least = 99
    for _ in range(200):
        step, _ = world.operate(Goal("b", wanted))
        world.controllers()
        world.tick()
        least = min(least, world.ready)
    assert world.replicas == {"b": wanted}
    assert step.phase is Phase.DONE
    assert not step.in_place  # the next rollout tries a surge again
    assert least == wanted - 1


def test_patience_is_bounded_and_counted():
    world = serving(wanted=2, slots=2)
    world.operate(Goal("b", 2))
    world.controllers()
    world.tick()
    since = world.of("b", "pending")[0].since
    step = next_step(Goal("b", 2), world.seen(), since + 10)
    assert (step.replicas, step.again, step.in_place) == ({"a": 2, "b": 1}, SURGE_PATIENCE - 10, None)
    step = next_step(Goal("b", 2), world.seen(), since + SURGE_PATIENCE)
    assert (step.replicas, step.in_place) == ({"a": 2, "b": 0}, "b")


def test_where_nothing_may_be_missing_it_waits_and_says_so():
    world = serving(wanted=2, slots=2)
    step = world.settle(Goal("b", 2, max_unavailable=0))
    assert step.phase is Phase.NO_ROOM
    assert world.replicas == {"a": 2, "b": 1}
    assert len(world.of("a", "ready")) == 2
    world.slots = 3
    assert world.settle(Goal("b", 2, max_unavailable=0)).phase is Phase.DONE


def test_a_broken_revision_costs_nothing_that_serves():
    world = serving(broken=frozenset("b"))
    world.settle(Goal("b", 3))
    assert world.replicas == {"a": 3, "b": 1}
    assert len(world.of("a", "ready")) == 3
    world.settle(Goal("a", 3))  # and back
    assert world.replicas == {"a": 3}


def test_a_broken_revision_on_full_accelerators_costs_one():
    world = serving(wanted=2, slots=2, broken=frozenset("b"))
    world.settle(Goal("b", 2))
    assert world.replicas == {"a": 1, "b": 1}
    world.settle(Goal("a", 2))
    assert world.replicas == {"a": 2}
    assert world.ready == 2


def test_more_replicas_during_a_rollout_come_from_what_serves_until_the_new_ones_do():
    world = serving(broken=frozenset("b"))
    world.operate(Goal("b", 3))
    world.settle(Goal("b", 6))
    assert world.replicas == {"a": 5, "b": 1}
    world.broken = frozenset()
    world.settle(Goal("b", 6))
    assert world.replicas == {"b": 6}


def test_fewer_replicas_during_a_rollout():
    world = serving(wanted=6, broken=frozenset("b"))
    world.operate(Goal("b", 6))
    world.settle(Goal("b", 2))
    assert len(world.of("a", "ready")) == 2


def test_a_broken_first_revision_makes_way_at_once():
    world = World(slots=100, broken=frozenset("a"))
    world.settle(Goal("a", 2))
    step, _ = world.operate(Goal("b", 2))
    assert step.replicas == {"a": 0, "b": 2}


def test_a_third_revision_waits_until_the_second_is_gone():
    world = serving(wanted=4)
    for _ in range(8):
        world.operate(Goal("b", 4))
        world.controllers()
        world.tick()
    assert world.of("b", "ready")
    assert world.of("a", "ready")
    world.settle(Goal("c", 4))
    assert world.replicas == {"c": 4}


def test_paused_holds_where_it_is_and_still_scales():
    world = serving(wanted=4)
    for _ in range(4):
        world.operate(Goal("b", 4))
        world.controllers()
        world.tick()
    had = len(world.of("b", "loading", "ready"))
    step = world.settle(Goal("b", 4, paused=True))
    assert step.phase is Phase.PAUSED
    assert world.replicas == {"a": 4 - had, "b": had}
    world.settle(Goal("b", 6, paused=True))
    assert sum(world.replicas.values()) == 6
    world.settle(Goal("b", 0, paused=True))
    assert world.pods == []
    world.settle(Goal("b", 2, paused=True))
    assert world.replicas == {"a": 2, "b": 0}  # what it came from, not what it was kept from
    world.settle(Goal("b", 2))
    assert world.replicas == {"b": 2}


def test_paused_before_the_first_step_starts_nothing():
    world = serving()
    step = world.settle(Goal("b", 3, paused=True))
    assert (step.phase, world.replicas) == (Phase.PAUSED, {"a": 3})
    assert World(slots=9).settle(Goal("a", 3, paused=True)).phase is Phase.DONE  # nothing to hold back


def test_a_canary_goes_so_far_and_further_when_let():
    world = serving(wanted=4)
    step = world.settle(Goal("b", 4, canary=1))
    assert (step.phase, world.replicas) == (Phase.CANARY, {"a": 3, "b": 1})
    world.settle(Goal("b", 6, canary=2))
    assert world.replicas == {"a": 4, "b": 2}
    world.settle(Goal("b", 6, canary=1))
    assert world.replicas == {"a": 5, "b": 1}
    world.settle(Goal("b", 0, canary=1))
    world.settle(Goal("b", 3, canary=1))
    assert world.replicas == {"a": 2, "b": 1}
    assert world.settle(Goal("b", 3)).phase is Phase.DONE
    assert world.replicas == {"b": 3}


def test_suspended_in_the_middle_and_back():
    world = serving(wanted=3)
    for _ in range(5):
        world.operate(Goal("b", 3))
        world.controllers()
        world.tick()
    world.settle(Goal("b", 0))
    assert world.pods == []
    assert world.replicas == {"b": 0}
    world.settle(Goal("b", 3))
    assert world.ready == 3


goals = st.builds(
    Goal,
    target=st.sampled_from("abc"),
    wanted=st.integers(0, 6),
    max_surge=st.integers(0, 3),
    max_unavailable=st.one_of(st.none(), st.integers(0, 3)),
    paused=st.booleans(),
    canary=st.one_of(st.none(), st.integers(0, 4)),
).filter(lambda goal: goal.max_surge or goal.max_unavailable != 0)


ages = st.lists(st.sampled_from((None,) * 27 + (0, 1, 2)), max_size=12)  # at each tick: which pod dies


@settings(max_examples=4000, deadline=None)
@given(
    slots=st.integers(1, 12),
    broken=st.frozensets(st.sampled_from("abc"), max_size=2),
    ticks=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    past=st.lists(st.tuples(goals, ages), max_size=4),
    goal=goals,
)
@example(  # two revisions on full nodes, neither of them wanted: the keeper remembers that there is no room
    slots=2,
    broken=frozenset(),
    ticks=(0, 0),
    past=[(Goal("c", 0), [None]), (Goal("b", 2, canary=1), [None, None])],
    goal=Goal("a", 2),
)
@example(  # back to a revision whose Deployment stayed at 0, while two others have pods
    slots=7,
    broken=frozenset(),
    ticks=(0, 0),
    past=[(Goal("b", 0), [None]), (Goal("c", 1, canary=1), [None]), (Goal("a", 4, canary=3), [None, None])],
    goal=Goal("b", 4, canary=3),
)
@example(  # fewer are wanted while the target's pods do not serve
    slots=10,
    broken=frozenset("a"),
    ticks=(0, 0),
    past=[(Goal("a", 0), [None]), (Goal("b", 4, canary=2), [None, None])],
    goal=Goal("a", 2),
)
@example(  # a canary that serves beyond its share, and nothing may be above what is wanted
    slots=4,
    broken=frozenset("c"),
    ticks=(0, 0),
    past=[(Goal("c", 0), [None]), (Goal("a", 4, canary=2), [None, None])],
    goal=Goal("a", 3, max_surge=0, canary=1),
)
@example(  # replaced in place, until somebody says that nothing may be missing
    slots=4,
    broken=frozenset(),
    ticks=(0, 0),
    past=[(Goal("a", 0), [None]), (Goal("b", 6, canary=2), [None] * 5)],
    goal=Goal("b", 1, max_unavailable=0),
)
def test_any_history_ends_at_rest_with_what_was_asked_for(slots, broken, ticks, past, goal):
    """At every step `operate` holds what may be missing, and what may be there."""
    world = World(slots=slots, broken=broken, load_ticks=ticks[0], drain_ticks=ticks[1])
    for then, deaths in past:
        for dies in deaths:
            world.operate(then)
            world.controllers()
            if dies is not None and world.pods:
                world.pods.pop(dies % len(world.pods))
            world.tick()
    step = world.settle(goal)
    assert not world.operate(goal)[1]
    total = sum(world.replicas.values())
    if goal.target not in world.broken and not goal.held and world.slots > goal.wanted + goal.max_surge:
        assert step.phase is Phase.DONE
        assert world.replicas == {goal.target: goal.wanted}
        assert world.ready == goal.wanted
    assert goal.wanted <= total <= goal.wanted + goal.max_surge
    if not goal.wanted:
        assert not world.pods


@settings(max_examples=100, deadline=None)
@given(goal=goals, wanted=st.integers(1, 6))
def test_a_good_revision_always_comes_through_on_full_accelerators_unless_nothing_may_be_missing(
    goal, wanted
):
    goal = replace(goal, target="b", wanted=wanted, paused=False, canary=None)
    world = serving(wanted=wanted, slots=wanted)
    step = world.settle(goal)
    if goal.max_unavailable == 0:
        assert step.phase is Phase.NO_ROOM
        assert len(world.of("a", "ready")) == wanted
    else:
        assert step.phase is Phase.DONE
        assert world.replicas == {"b": wanted}
