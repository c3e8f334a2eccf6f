"""The pods' own /metrics, asked one by one: for clusters without a Prometheus."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from slipway_operator.autoscale.load import FRESH_SECONDS, PodLoad
from slipway_operator.explain.pods import is_ready
from slipway_operator.kinds import Key, Object, key_of, uid_of
from slipway_operator.progress import answer_of
from slipway_operator.signals.reading import FIRST_WINDOW, Reading, first_tokens, load_of, parse, read, wanted
from slipway_operator.signals.source import Asked, Seen

MAX_METRICS: Final = 4 << 20
AT_ONCE: Final = 32

Ask = Callable[[Object, int, str, int], Awaitable[bytes | None]]


class Scraper:
    """Asks pods, and keeps each one's last readings."""

    fresh_for = FRESH_SECONDS

    def __init__(self, ask: Ask = answer_of) -> None:
        self._ask = ask
        self._room = asyncio.Semaphore(AT_ONCE)
        self._known: dict[Key, dict[str, deque[Reading]]] = {}

    async def look(self, asked: Asked, now: float) -> Seen:
        """Ask every pod of one object."""
        known = self._known.setdefault(asked.key, {})
        for uid in known.keys() - {uid_of(pod) for pod in asked.pods}:
            del known[uid]
        problems = await asyncio.gather(*(self._read(pod, asked, known, now) for pod in asked.pods))
        pods = [load for pod in asked.pods if (load := _load(pod, known)) is not None]
        if asked.queries:
            text = (
                "metrics of type Prometheus need a Prometheus (the chart's prometheus.url), and none is set"
            )
            problems.append(text)
        return Seen(
            pods=tuple(pods),
            ttft=_first(asked, known, now) if asked.first else None,
            values=dict.fromkeys(asked.queries),
            problems=tuple(problem for problem in problems if problem),
        )

    async def past(self, asked: Asked, now: float) -> tuple[PodLoad, ...]:
        """Pods tell what is, not what was."""
        return ()

    def forget(self, key: Key) -> None:
        """An object is gone."""
        self._known.pop(key, None)

    async def close(self) -> None:
        """Nothing is held open."""

    async def _read(self, pod: Object, asked: Asked, known: dict[str, deque[Reading]], now: float) -> str:
        """Read one pod; return why that did not work, empty where it did, or is nothing to wonder about."""
        async with self._room:
            answer = await self._ask(pod, asked.port, asked.path, MAX_METRICS)
        found, why = _reading(answer, asked, now)
        if found is None:
            return f"pod {key_of(pod).name} {why}" if is_ready(pod) else ""
        readings = known.setdefault(uid_of(pod), deque())
        readings.append(found)
        while len(readings) > 2 and now - readings[1].at >= FIRST_WINDOW:
            readings.popleft()
        return ""


def _reading(answer: bytes | None, asked: Asked, now: float) -> tuple[Reading | None, str]:
    if answer is None:
        return None, f"did not answer {asked.path} on port {asked.port}"
    if len(answer) >= MAX_METRICS:
        return None, f"answered {asked.path} with more than {MAX_METRICS >> 20} MiB"
    try:
        samples = parse(answer.decode("utf-8", "replace"), wanted(asked.names, first=asked.first))
    except (ValueError, KeyError, IndexError) as error:
        return None, f"answered {asked.path} with what cannot be read: {str(error)[:100]}"
    found = read(samples, asked.names, now)
    return found, "" if found else "tells no number of running and waiting requests"


def _load(pod: Object, known: dict[str, deque[Reading]]) -> PodLoad | None:
    readings = known.get(uid_of(pod))
    if not readings:
        return None
    before = readings[-2] if len(readings) > 1 else None
    return load_of(key_of(pod).name, before, readings[-1], serving=is_ready(pod))


def _first(asked: Asked, known: dict[str, deque[Reading]], now: float) -> float | None:
    """Return the time to the first token over all ready pods; None where one of them is not known."""
    pairs = []
    for pod in asked.pods:
        readings = known.get(uid_of(pod))
        if readings and now - readings[-1].at < FRESH_SECONDS and len(readings) > 1:
            pairs.append((readings[0], readings[-1]))
        elif is_ready(pod):
            return None
    return first_tokens(pairs) if pairs else None
