"""One decision: how many replicas, and why. Pure: what was seen and remembered in, what is next out.

Up follows the load at once, in bounded steps; replicas on their way count as supply, so nothing is asked for
twice. Down waits until the highest load of a window longer than a replica's start would fit in fewer.
Missing is never zero: without a fresh sample nothing moves, and a silent pod counts as full before anything
is taken away. The rules of speed have autoscaling/v2's words and can be set by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from slipway_operator.autoscale.capacity import Learned, capacity, learn, slowness
from slipway_operator.autoscale.demand import TREND, settled
from slipway_operator.autoscale.load import Load
from slipway_operator.autoscale.needs import Metric, Need, in_flight, need

PERIOD: Final = 10.0
"""Seconds between two decisions."""

UP_EVERY: Final = 30.0
DOWN_EVERY: Final = 60.0
DOWN_AFTER_UP: Final = 150.0
DOWN_WINDOW: Final = 300.0
KV_AFTER_DOWN: Final = 0.75
ZERO_AFTER: Final = 600.0
BLIND_PATIENCE: Final = 180.0


class Why(StrEnum):
    """What a decision rests on; the words become the condition's reason."""

    STEADY = "ReadyForNewScale"
    UP = "ScaledUp"
    DOWN = "ScaledDown"
    TO_ZERO = "ScaledToZero"
    FROM_ZERO = "Woken"
    AT_MAXIMUM = "TooManyReplicas"
    AT_MINIMUM = "TooFewReplicas"
    WAITING = "BackoffBoth"
    STALE = "MetricsStale"
    FALLBACK = "FallbackReplicas"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast replicas may come or go: at most `pods` or `percent` (the larger) a `period`, of seconds."""

    pods: int
    percent: int
    period: float
    window: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """What `spec.autoscaling` says, resolved. `tpot` is the SLO in seconds a token."""

    minimum: int
    maximum: int
    spare: int = 0
    metrics: tuple[Metric, ...] = (Metric("InFlight"),)
    max_num_seqs: int = 64
    tpot: float | None = None
    fallback: int | None = None
    up: Speed = Speed(pods=4, percent=100, period=UP_EVERY, window=0.0)
    down: Speed = Speed(pods=1, percent=10, period=DOWN_EVERY, window=DOWN_WINDOW)


@dataclass(frozen=True, slots=True)
class Memory:
    """What is carried from one decision to the next. Demands are (time, replicas needed to shrink)."""

    learned: Learned = field(default_factory=Learned)
    recent: tuple[tuple[float, float], ...] = ()
    needed: tuple[tuple[float, float], ...] = ()
    last_up: float = -math.inf
    last_down: float = -math.inf
    blind_since: float | None = None
    busy_at: float | None = None
    served: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The number of replicas, what it rests on, and the arithmetic as one sentence."""

    replicas: int
    why: Why
    text: str


def decide(bounds: Bounds, memory: Memory, load: Load) -> tuple[Decision, Memory]:
    """Return the decision and what to remember."""
    memory = _remember(memory, load)
    if load.current == 0:
        return _at_zero(bounds, memory, load)
    if load.blind:
        return _blind(bounds, memory, load)
    bears, bound = capacity(memory.learned, bounds.max_num_seqs, bounds.tpot)
    asked = list(_needs(bounds.metrics, load, memory, bears))
    if not asked:
        return Decision(load.current, Why.STALE, "no metric could be read; nothing is changed"), memory
    most = max(asked, key=lambda one: one.up)
    memory = _note(bounds, memory, load, max(one.down for one in asked))
    wanted = math.ceil(_settled(most.up)) + bounds.spare
    text = f"{most.text} = {most.up:.2f}"
    if bound != "maxNumSeqs":
        text += f", bounded by {bound}"
    if wanted > load.current or load.current < bounds.minimum:
        return _up(bounds, memory, load, wanted, text)
    return _down(bounds, memory, load, text)


def _remember(memory: Memory, load: Load) -> Memory:
    demand = in_flight(load)
    recent = (*memory.recent, (load.now, demand)) if load.fresh or load.held is not None else memory.recent
    return replace(
        memory,
        learned=learn(memory.learned, load.fresh, load.now),
        recent=tuple(entry for entry in recent if load.now - entry[0] <= TREND),
        blind_since=(memory.blind_since or load.now) if load.blind else None,
        busy_at=load.now if demand > 0 or memory.busy_at is None else memory.busy_at,
        served=memory.served or load.ready > 0,
    )


def _needs(metrics: Iterable[Metric], load: Load, memory: Memory, bears: float) -> Iterable[Need]:
    running = sum(pod.running for pod in load.fresh)
    waiting = in_flight(load) - running
    slow = slowness(memory.learned, running / max(1, len(load.fresh)), bears)
    demand = settled(memory.recent, running, waiting, memory.learned.stay, load.ready_seconds) / slow
    for metric in metrics:
        found = need(metric, load, demand, bears)
        if found is not None:
            yield found


def _note(bounds: Bounds, memory: Memory, load: Load, down: float) -> Memory:
    """Keep what shrinking must respect. A window that begins empty begins with what there is now."""
    window = max(bounds.down.window, 2 * load.ready_seconds)
    seed = memory.needed or ((load.now, float(load.current)),)
    kept = tuple(entry for entry in (*seed, (load.now, down)) if load.now - entry[0] <= window)
    return replace(memory, needed=kept)


def _up(bounds: Bounds, memory: Memory, load: Load, wanted: int, text: str) -> tuple[Decision, Memory]:
    step = max(bounds.up.pods, load.current * bounds.up.percent // 100)
    target = max(min(wanted, load.current + step), bounds.minimum)
    if target > bounds.maximum:
        target = bounds.maximum
    if target <= load.current:
        return Decision(load.current, Why.AT_MAXIMUM, f"{text}, but maxReplicas is {bounds.maximum}"), memory
    if load.now - memory.last_up < bounds.up.period and load.current >= bounds.minimum:
        return Decision(load.current, Why.WAITING, f"{text}; the last step up was moments ago"), memory
    return Decision(target, Why.UP, f"{text}, so {target}"), replace(memory, last_up=load.now)


def _down(bounds: Bounds, memory: Memory, load: Load, text: str) -> tuple[Decision, Memory]:
    if load.current > bounds.maximum:
        return Decision(bounds.maximum, Why.DOWN, f"maxReplicas is {bounds.maximum}"), memory
    if _idle(bounds, memory, load):
        idle = load.now - (memory.busy_at or load.now)
        text = f"no request for {idle:.0f} s, and a gateway holds those that come"
        return Decision(0, Why.TO_ZERO, text), replace(memory, last_down=load.now, needed=())
    highest = max((value for _, value in memory.needed), default=0.0)
    safe = max(math.ceil(_settled(highest)) + bounds.spare, bounds.minimum, 1)
    if safe >= load.current:
        why = Why.AT_MINIMUM if load.current == bounds.minimum else Why.STEADY
        return Decision(load.current, why, text), memory
    held_back = _held_back(bounds, memory, load)
    if held_back:
        return Decision(load.current, Why.WAITING, f"{safe} would do, but {held_back}"), memory
    step = max(bounds.down.pods, load.current * bounds.down.percent // 100)
    target = max(safe, load.current - step)
    text = f"the most of the last {max(bounds.down.window, 2 * load.ready_seconds):.0f} s needs {safe}"
    return Decision(target, Why.DOWN, text), replace(memory, last_down=load.now)


def _held_back(bounds: Bounds, memory: Memory, load: Load) -> str:
    """Return what forbids taking a replica away now, empty where nothing does."""
    left = load.current - 1
    cache = sum(pod.kv_cache for pod in load.fresh)
    checks = (
        (load.rolling, "a rollout is on its way"),
        (load.ready < load.current, "not all replicas are ready"),
        (load.silent > 0, f"{load.silent} pods do not report"),
        (load.now - memory.last_down < bounds.down.period, "the last step down was moments ago"),
        (load.now - memory.last_up < DOWN_AFTER_UP, "the last step up was moments ago"),
        (any(pod.waiting > 0 for pod in load.fresh), "requests wait"),
        (left > 0 and cache / left >= KV_AFTER_DOWN, "the KV cache of the others would be nearly full"),
    )
    return next((text for forbids, text in checks if forbids), "")


def _idle(bounds: Bounds, memory: Memory, load: Load) -> bool:
    """Zero only where a gateway would hold what comes, and after a silence longer than starts are worth."""
    if bounds.minimum > 0 or load.held is None or load.held > 0 or not memory.served:
        return False
    if load.rolling or load.silent or in_flight(load) > 0 or memory.busy_at is None:
        return False
    return load.now - memory.busy_at >= max(ZERO_AFTER, 5 * load.ready_seconds)


def _at_zero(bounds: Bounds, memory: Memory, load: Load) -> tuple[Decision, Memory]:
    if load.held:
        bears, _ = capacity(memory.learned, bounds.max_num_seqs, bounds.tpot)
        target = max(1, bounds.minimum, math.ceil(_settled(load.held / bears)))
        text = f"{load.held:.0f} requests are held"
        woken = replace(memory, last_up=load.now, busy_at=load.now, needed=())
        return Decision(min(target, bounds.maximum), Why.FROM_ZERO, text), woken
    if bounds.minimum > 0 or load.held is None:
        floor = max(1, bounds.minimum)
        return Decision(floor, Why.UP, f"the minimum is {floor}"), replace(memory, last_up=load.now)
    return Decision(0, Why.STEADY, "no request is held"), memory


def _blind(bounds: Bounds, memory: Memory, load: Load) -> tuple[Decision, Memory]:
    """Hold; after a while at least the fallback, never less than there is."""
    since = load.now - (memory.blind_since or load.now)
    if bounds.fallback is not None and since >= BLIND_PATIENCE and bounds.fallback > load.current:
        target = min(bounds.fallback, bounds.maximum)
        return Decision(target, Why.FALLBACK, f"no pod has reported for {since:.0f} s"), memory
    return Decision(
        load.current, Why.STALE, f"no pod has reported for {since:.0f} s; nothing is changed"
    ), memory


def _settled(value: float) -> float:
    """Return the value without the noise of floating point, which would round up to one replica more."""
    return round(value, 6)
