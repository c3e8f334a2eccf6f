"""One decision: how many replicas, and why. Pure: what was seen and remembered in, what is next out.

Up follows the load at once, in bounded steps; replicas on their way count as supply, so nothing is asked for
twice. Down waits until the highest load of a window longer than a replica's start would fit in fewer.
Missing is never zero: without a fresh sample nothing moves, and a silent pod counts as full before anything
is taken away. The rules of speed have autoscaling/v2's words and can be set by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from slipway_operator.autoscale.behavior import least, most, noted
from slipway_operator.autoscale.capacity import capacity, learn, slowness, stay
from slipway_operator.autoscale.demand import TREND, Moment, settled, traffic
from slipway_operator.autoscale.load import Load
from slipway_operator.autoscale.needs import FILL_UP, Metric, Need, in_flight, need
from slipway_operator.autoscale.terms import Bounds, Decision, Memory, Why

KV_AFTER_DOWN: Final = 0.75
ZERO_AFTER: Final = 600.0
BLIND_PATIENCE: Final = 180.0


def decide(bounds: Bounds, memory: Memory, load: Load) -> tuple[Decision, Memory]:
    """Return the decision and what to remember."""
    decision, memory = _decide(bounds, _remember(memory, load), load)
    change = decision.replicas - load.current
    if not change:
        return decision, memory
    memory = replace(memory, steps=noted(memory.steps, load.now, change))
    if change > 0:
        return decision, replace(memory, last_up=load.now)
    return decision, replace(memory, last_down=load.now)


def _decide(bounds: Bounds, memory: Memory, load: Load) -> tuple[Decision, Memory]:
    if load.current == 0:
        return _at_zero(bounds, memory, load)
    if load.blind:
        return _blind(bounds, memory, load)
    bears, bound = capacity(memory.learned, bounds.max_num_seqs, bounds.tpot)
    asked, unread = _needs(bounds.metrics, load, memory, bears)
    if not asked:
        text = f"{' and '.join(unread)} could not be read; nothing is changed"
        return Decision(load.current, Why.STALE, text), memory
    most_asked = max(asked, key=lambda one: counted(one, bounds.spare))
    memory = _note(bounds, memory, load, max(one.down for one in asked), max(one.peak for one in asked))
    wanted = counted(most_asked, bounds.spare)
    text = f"{most_asked.text} = {max(most_asked.up, most_asked.soon):.2f}"
    if bound != "maxNumSeqs":
        text += f", bounded by {bound}"
    memory, wanted = _careful(bounds, memory, load, wanted)
    if load.current > bounds.maximum:
        return Decision(bounds.maximum, Why.DOWN, f"{bounds.ceiling} is {bounds.maximum}"), memory
    if wanted > load.current or load.current < bounds.minimum:
        return _up(bounds, memory, load, wanted, text)
    return _down(bounds, memory, load, text, unread)


def _remember(memory: Memory, load: Load) -> Memory:
    demand = in_flight(load)
    return replace(
        memory,
        learned=learn(memory.learned, load.fresh, load.now),
        recent=_looked(memory.recent, load),
        blind_since=(memory.blind_since or load.now) if load.blind else None,
        busy_at=load.now if demand > 0 or memory.busy_at is None else memory.busy_at,
        served=memory.served or load.ready > 0,
    )


def _looked(recent: tuple[Moment, ...], load: Load) -> tuple[Moment, ...]:
    """Return the looks that a trend is read from; none with a silent pod, which looks like traffic gone."""
    if load.silent or not (load.fresh or load.held is not None):
        return ()
    before = recent[-1] if recent else Moment(load.now, 0.0, 0.0)
    ended = sum(pod.finishing or 0.0 for pod in load.fresh) * (load.now - before.at)
    now = Moment(load.now, in_flight(load), before.ended + ended)
    return tuple(one for one in (*recent, now) if load.now - one.at <= TREND)


def _needs(
    metrics: Iterable[Metric], load: Load, memory: Memory, bears: float
) -> tuple[list[Need], list[str]]:
    """Return what the metrics ask for, and the names of those that cannot be read."""
    running = sum(pod.running for pod in load.fresh)
    waiting = in_flight(load) - running
    slow = slowness(memory.learned, running / max(1, len(load.fresh)), bears)
    runs = stay(memory.learned, FILL_UP * bears)
    demand = settled(running / slow, waiting, traffic(memory.recent, load.ready_seconds), runs)
    asked, unread = [], []
    for metric in metrics:
        found = need(metric, load, demand, bears)
        if found is not None:
            asked.append(found)
        elif not metric.implied:
            unread.append(metric.name or metric.kind)
    return asked, unread


def counted(one: Need, spare: int) -> int:
    """Return the whole replicas that a need comes to: spare ones beside those of now, not beside growth."""
    return max(math.ceil(_settled(one.up)) + spare, math.ceil(_settled(one.soon)))


def _careful(bounds: Bounds, memory: Memory, load: Load, wanted: int) -> tuple[Memory, int]:
    """Return the least that was asked for in the window of steps up: a peak shorter than it adds nothing."""
    if not bounds.up.window:
        return memory, wanted
    seed = memory.asked or ((load.now, load.current),)
    asked = tuple(one for one in (*seed, (load.now, wanted)) if load.now - one[0] <= bounds.up.window)
    return replace(memory, asked=asked), min(count for _, count in asked)


def _note(bounds: Bounds, memory: Memory, load: Load, down: float, peak: float) -> Memory:
    """Keep what shrinking must respect. A window that begins empty begins with what there is now."""
    window = max(bounds.down.window, 2 * load.ready_seconds)
    seed = memory.needed or ((load.now, float(load.current)),)
    kept = tuple(entry for entry in (*seed, (load.now, down)) if load.now - entry[0] <= window)
    reach = bounds.down.memory
    higher = (one for one in memory.peaks if one[1] > peak and load.now - one[0] <= reach)
    return replace(memory, needed=kept, peaks=(*higher, (load.now, peak)) if reach else ())


def _up(bounds: Bounds, memory: Memory, load: Load, wanted: int, text: str) -> tuple[Decision, Memory]:
    allowed = most(bounds.up, memory.steps, load.current, load.now)
    target = min(max(min(wanted, allowed), bounds.minimum), bounds.maximum)
    if target <= load.current:
        if wanted > bounds.maximum:
            text = f"{text}, but {bounds.ceiling} is {bounds.maximum}"
            return Decision(load.current, Why.AT_MAXIMUM, text), memory
        return Decision(load.current, Why.WAITING, f"{text}; behavior.scaleUp allows no more now"), memory
    if load.now - memory.last_up < bounds.up.pause and load.current >= bounds.minimum:
        return Decision(load.current, Why.WAITING, f"{text}; the last step up was moments ago"), memory
    return Decision(target, Why.UP, f"{text}, so {target}"), memory


def _down(
    bounds: Bounds, memory: Memory, load: Load, text: str, unread: list[str]
) -> tuple[Decision, Memory]:
    if not unread and _idle(bounds, memory, load):
        idle = load.now - (memory.busy_at or load.now)
        text = f"no request for {idle:.0f} s, and a gateway holds those that come"
        return Decision(0, Why.TO_ZERO, text), replace(memory, needed=())
    highest = max((value for _, value in memory.needed), default=0.0)
    peak = max((value for _, value in memory.peaks), default=0.0)
    safe = max(math.ceil(_settled(highest)) + bounds.spare, math.ceil(_settled(peak)), bounds.minimum, 1)
    if safe >= load.current:
        why = Why.AT_MINIMUM if load.current == bounds.minimum else Why.STEADY
        return Decision(load.current, why, text), memory
    held_back = f"{unread[0]} could not be read" if unread else _held_back(bounds, memory, load)
    target = max(safe, least(bounds.down, memory.steps, load.current, load.now))
    if held_back or target >= load.current:
        held_back = held_back or "behavior.scaleDown allows no fewer now"
        return Decision(load.current, Why.WAITING, f"{safe} would do, but {held_back}"), memory
    window = max(bounds.down.window, 2 * load.ready_seconds)
    text = f"the most of the last {window:.0f} s needs {safe}, so {target}"
    return Decision(target, Why.DOWN, text), memory


def _held_back(bounds: Bounds, memory: Memory, load: Load) -> str:
    """Return what forbids taking a replica away now, empty where nothing does."""
    left = load.current - 1
    cache = sum(pod.kv_cache or 0.0 for pod in load.fresh)
    checks = (
        (load.rolling, "a rollout is on its way"),
        (load.ready < load.current, "not all replicas are ready"),
        (load.silent > 0, f"{load.silent} pods do not report"),
        (load.now - memory.last_down < bounds.down.pause, "the last step down was moments ago"),
        (load.now - memory.last_up < bounds.rest, "the last step up was moments ago"),
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
    wait = max(ZERO_AFTER, 5 * load.ready_seconds) if bounds.idle is None else bounds.idle
    return load.now - memory.busy_at >= wait


def _at_zero(bounds: Bounds, memory: Memory, load: Load) -> tuple[Decision, Memory]:
    if load.held:
        bears, _ = capacity(memory.learned, bounds.max_num_seqs, bounds.tpot)
        target = max(1, bounds.minimum, math.ceil(_settled(load.held / bears)))
        text = f"{load.held:.0f} requests are held"
        woken = replace(memory, busy_at=load.now, needed=())
        return Decision(min(target, bounds.maximum), Why.FROM_ZERO, text), woken
    if bounds.minimum > 0 or not load.gateway:
        floor = max(1, bounds.minimum)
        return Decision(floor, Why.UP, f"the minimum is {floor}"), memory
    if load.held is None:
        return Decision(0, Why.STALE, "no gateway says whether requests are held; nothing is changed"), memory
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
