"""The pods' metrics as a Prometheus (or Thanos, Mimir, VictoriaMetrics) has collected them, and its queries.

One query an object brings the raw samples of the last minutes with the times at which they were taken, so
that an old sample is told from a new one and a counter that began anew from one that stands; Prometheus' own
instant values carry neither. Its clock counts: ours may be another. An answer with warnings is one in part,
and what is missing in it is unknown. Connection and queries come from the installation, never from an object,
but for the expressions of `autoscaling.metrics`, which a class has to allow.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from slipway_operator.autoscale.load import PodLoad
from slipway_operator.explain.findings import clean
from slipway_operator.explain.pods import is_ready
from slipway_operator.kinds import Key, Object, key_of
from slipway_operator.signals.connection import FIELDS, FIRST_TOKEN, Connection
from slipway_operator.signals.promapi import Client, PrometheusError, number
from slipway_operator.signals.reading import (
    FIRST_WINDOW,
    Reading,
    Sample,
    first_tokens,
    load_of,
    read,
    wanted,
)
from slipway_operator.signals.source import Asked, Seen

CLOCK_SECONDS: Final = 60.0
PAST_SECONDS: Final = 7200.0
logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,127}")
_TARGET: Final = ("job", "instance", "endpoint", "service", "container", "prometheus", "prometheus_replica")
"""Labels that tell apart who collected a series: a pod that is collected twice must not count twice."""

_NEEDED: Final = frozenset({"running", "waiting"})


class Prometheus:
    """A source that asks one Prometheus."""

    def __init__(self, connection: Connection) -> None:
        self._at = connection
        self.fresh_for = connection.fresh_seconds
        self._client = Client(connection)
        self._ahead: tuple[float, float] | None = None
        """How far our clock is ahead of its, and when that was found out by ours."""

    async def look(self, asked: Asked, now: float) -> Seen:
        """Ask about one object."""
        problems: list[str] = []
        pods: tuple[PodLoad, ...] = ()
        ttft: float | None = None
        try:
            if asked.pods:
                pods, ttft = await self._pods(asked, now, problems)
        except PrometheusError as error:
            problems.append(f"Prometheus: {error}")
        values: dict[str, float | None] = {}
        for name, query in asked.queries.items():
            try:
                values[name] = await self._client.value(query)
            except PrometheusError as error:
                values[name] = None
                problems.append(f"Prometheus: {name}: {error}")
        return Seen(pods, ttft, values, tuple(problems))

    async def past(self, asked: Asked, now: float) -> tuple[PodLoad, ...]:
        """Return the loads of the last hours, of which an operator that knows nothing learns.

        Only by the default series: queries of the installation have no past here.
        """
        if not asked.pods or self._at.queries:
            return ()
        try:
            ahead = await self._clock(now)
            query = f"{self._selector(asked)}[{PAST_SECONDS:.0f}s]"
            samples, _ = await self._client.query(query, "matrix")
        except PrometheusError as error:
            logger.info("nothing is learned from the past: %s", error, extra={"object": asked.key})
            return ()
        known = {_plain(name): name for name in wanted(asked.names, first=False)}
        series = _by_pod(samples, self._at.pod_label, known)
        loads = [
            load_of(name, before, reading, serving=True)
            for name, of_it in series.items()
            for before, reading in pairwise(_readings(of_it, asked.names, ahead))
        ]
        return tuple(sorted(loads, key=lambda load: load.at))

    def forget(self, key: Key) -> None:
        """An object is gone; nothing is kept of any."""

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()

    async def _pods(
        self, asked: Asked, now: float, problems: list[str]
    ) -> tuple[tuple[PodLoad, ...], float | None]:
        ahead = await self._clock(now)
        window = 2 * self.fresh_for
        samples, warnings = await self._client.query(f"{self._selector(asked)}[{window:.0f}s]", "matrix")
        known = {_plain(name): name for name in wanted(asked.names, first=asked.first)}
        series = _by_pod(samples, self._at.pod_label, known)
        loads: dict[str, PodLoad] = {}
        pairs: list[tuple[Reading, Reading]] = []
        for pod in asked.pods:
            name = key_of(pod).name
            readings = _readings(series.get(name, []), asked.names, ahead)
            if not readings:
                problems += [f"Prometheus has no samples of pod {name}"] if is_ready(pod) else []
                continue
            loads[name] = load_of(name, *_ends(readings), serving=is_ready(pod))
            pairs.append((_before(readings), readings[-1]))
        problems += [f"Prometheus answered in part: {clean(text)[:150]}" for text in warnings[:1]]
        ttft = first_tokens(pairs) if asked.first and len(loads) == len(asked.pods) else None
        return await self._replaced(asked, loads, ttft, now)

    async def _replaced(
        self, asked: Asked, loads: dict[str, PodLoad], ttft: float | None, now: float
    ) -> tuple[tuple[PodLoad, ...], float | None]:
        """Return the loads with what queries of the installation say in place of the default."""
        serving = {key_of(pod).name: is_ready(pod) for pod in asked.pods}
        gone: set[str] = set()
        for name, query in self._at.queries.items():
            filled = query.replace("$namespace", asked.key.namespace).replace("$pods", _names(asked.pods))
            samples, _ = await self._client.query(filled, "vector")
            found = {one["metric"].get(self._at.pod_label, ""): number(one["value"][1]) for one in samples}
            if name == FIRST_TOKEN:
                ttft = max((value for value in found.values() if value is not None), default=None)
                continue
            for pod in serving:
                value, load = found.get(pod), loads.get(pod)
                if value is None and name in _NEEDED:
                    loads.pop(pod, None)
                    gone.add(pod)
                elif value is not None and pod not in gone and (load or self._at.queries.keys() >= _NEEDED):
                    load = load or PodLoad(pod, now, 0.0, 0.0, None, serving=serving[pod])
                    loads[pod] = replace(load, **{FIELDS[name]: value, "at": now})  # type: ignore[arg-type]
        return tuple(loads.values()), ttft

    def _selector(self, asked: Asked) -> str:
        names = wanted(asked.names, first=asked.first)
        wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
        if wrong is not None:
            raise PrometheusError(f"{wrong[:60]!r} is no name of a metric; correct engine.custom.metrics")
        if not names:
            raise PrometheusError("the runtime names no metrics; write engine.custom.metrics")
        at, either = self._at, "|".join(name.replace(":", "[:_]") for name in names)
        return (
            f'{{__name__=~"{either}",{at.namespace_label}="{asked.key.namespace}",'
            f'{at.pod_label}=~"{_names(asked.pods)}"}}'
        )

    async def _clock(self, now: float) -> float:
        """Return how many seconds our clock is ahead of its."""
        if self._ahead is None or now - self._ahead[1] > CLOCK_SECONDS:
            samples, _ = await self._client.query("time()", "scalar")
            theirs = number(samples[0]["value"][1])
            self._ahead = (now - theirs if theirs is not None else 0.0, now)
        return self._ahead[0]


def _names(pods: Sequence[Object]) -> str:
    """Return a regular expression of pods' names, as it stands in a PromQL string."""
    return "|".join(key_of(pod).name.replace(".", "[.]") for pod in pods)


Series = tuple[str, Mapping[str, str], Sequence[tuple[float, str]]]


def _plain(name: str) -> str:
    """Return a metric's name as exporters write it in OpenMetrics: some put an underscore for a colon."""
    return name.replace(":", "_")


def _by_pod(samples: Sequence[Any], label: str, known: Mapping[str, str]) -> dict[str, list[Series]]:
    """Return each pod's series, of those who collected it the one that did so last."""
    found: dict[str, dict[tuple[str, ...], list[Series]]] = defaultdict(lambda: defaultdict(list))
    for one in samples:
        labels = {str(name): str(value) for name, value in one["metric"].items()}
        target = tuple(labels.get(name, "") for name in _TARGET)
        values = [(float(at), str(value)) for at, value in one["values"]]
        name = labels.get("__name__", "")
        found[labels.get(label, "")][target].append((known.get(_plain(name), name), labels, values))
    return {pod: max(by.values(), key=_newest) for pod, by in found.items()}


def _newest(series: Sequence[Series]) -> float:
    return max(values[-1][0] for _, _, values in series)


def _readings(series: Sequence[Series], names: Mapping[str, str], ahead: float) -> list[Reading]:
    """Return the readings at every time at which a pod was collected, oldest first, in our time."""
    moments: dict[float, list[Sample]] = defaultdict(list)
    for name, labels, values in series:
        for at, value in values:
            known = number(value)
            moments[at].append((name, labels, math.nan if known is None else known))
    found = (read(samples, names, at + ahead) for at, samples in sorted(moments.items()))
    return [reading for reading in found if reading is not None]


def _before(readings: Sequence[Reading]) -> Reading:
    """Return the reading from which on the time to the first token is taken."""
    since = readings[-1].at - FIRST_WINDOW
    return next((one for one in reversed(readings[:-1]) if one.at <= since), readings[0])


def _ends(readings: Sequence[Reading]) -> tuple[Reading | None, Reading]:
    return (readings[-2] if len(readings) > 1 else None), readings[-1]
