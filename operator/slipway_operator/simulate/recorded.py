"""A deployment's own traffic, as a Prometheus kept it: range queries, and the requests that they tell of.

A request arrived when another ended or the system held one more: arrivals of a step = ended + what is in the
pods more than before. Within a step they come at chance; lengths are log-normal around the step's means, so
single requests are made up while their number and their work are not. A step without samples counts as one
without traffic (no pod runs at zero), and the share of those is told.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slipway_operator.simulate.trace import MOST_REQUESTS, Arrival, TraceError, length

NEEDED: Final = {
    "present": ("num_requests_running", "num_requests_waiting"),
    "ended": ("e2e_request_latency_seconds",),
    "prompt": ("prompt_tokens_total",),
    "answer": ("generation_tokens_total",),
}
"""What is asked for, and the metrics that it is made of, in Slipway's names."""
ENOUGH: Final = 10.0
"""Requests that ended in a step from which on its own lengths count; below, those of the whole time do."""
MOST_STEPS: Final = 5000
LEAST_STEP: Final = 30

Series = Mapping[float, float]
"""Values by time, in seconds since 1970."""


@dataclass(frozen=True)
class Record:
    """Requests since `begin` (seconds since 1970), and the share of the time that has no sample."""

    arrivals: list[Arrival]
    begin: float
    missing: float


def step_of(seconds: float) -> int:
    """Return the seconds between two points so that a Prometheus gives all of them in one answer."""
    return max(LEAST_STEP, math.ceil(seconds / MOST_STEPS))


def queries(
    names: Mapping[str, str],
    namespace: str,
    name: str,
    step: int,
    labels: tuple[str, str] = ("namespace", "pod"),
) -> dict[str, str]:
    """Return the PromQL for each of `NEEDED`. Raises TraceError where the engine's metrics lack one.

    `names` maps Slipway's names of metrics to the engine's, `labels` are those of namespaces and of pods.
    """
    lacking = [one for group in NEEDED.values() for one in group if not names.get(one)]
    if lacking:
        raise TraceError(f"The runtime names no {lacking[0]}; write engine.custom.metrics, or give --trace.")
    pods = f'{{{labels[0]}="{namespace}",{labels[1]}=~"{name}-[0-9a-f]{{10}}-.*"}}'
    running, waiting = (names[one] + pods for one in NEEDED["present"])
    ended, prompt, answer = (names[NEEDED[key][0]] for key in ("ended", "prompt", "answer"))
    return {
        "present": f"sum({running}) + sum({waiting})",
        "ended": f"sum(increase({ended}_count{pods}[{step}s]))",
        "prompt": f"sum(increase({prompt}{pods}[{step}s]))",
        "answer": f"sum(increase({answer}{pods}[{step}s]))",
    }


def series_of(answer: Any) -> Series:
    """Return the one series of a range query's answer. Raises TraceError with Prometheus' own words."""
    said = answer.get("error") if isinstance(answer, dict) and answer.get("status") == "error" else None
    if said is not None:
        raise TraceError(f"Prometheus refuses: {str(said)[:300]}")
    try:
        result = answer["data"]["result"]
        points = [(float(at), float(value)) for at, value in result[0]["values"]] if result else []
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TraceError(
            f"What answers is no Prometheus ({type(error).__name__}); give its URL, without /api/v1."
        ) from error
    return {at: value for at, value in points if math.isfinite(value) and value >= 0}


def record(found: Mapping[str, Series], begin: float, end: float, step: int, seed: int) -> Record:
    """Return the requests between two times, seconds since 1970. Raises TraceError where there are none."""
    source = random.Random(seed)  # noqa: S311 - a simulation, no secret
    means = {key: _mean(found[key], found["ended"]) for key in ("prompt", "answer")}
    times = [begin + step * index for index in range(1, int((end - begin) // step) + 1)]
    arrivals: list[Arrival] = []
    missing, before = 0, 0.0
    for at in times:
        present, ended = found["present"].get(at), found["ended"].get(at, 0.0)
        missing += present is None
        count = max(0.0, ended + (present or 0.0) - before)
        before = present or 0.0
        here = {
            key: found[key].get(at, 0.0) / ended if ended >= ENOUGH else mean for key, mean in means.items()
        }
        whole = int(count) + (source.random() < count % 1)
        if len(arrivals) + whole > MOST_REQUESTS:
            raise TraceError(f"More than {MOST_REQUESTS} requests; give a shorter --since.")
        for _ in range(whole):
            moment = at - step + source.uniform(0, step) - begin
            arrivals.append(Arrival(moment, length(source, here["prompt"]), length(source, here["answer"])))
    if not arrivals:
        raise TraceError(
            "Prometheus knows no request of it in this time; is it the one that collects its pods?"
        )
    return Record(sorted(arrivals, key=lambda one: one.at), begin, missing / max(1, len(times)))


def _mean(tokens: Series, ended: Series) -> float:
    """Return the mean length over the whole time, of the steps in which both are known."""
    both: Sequence[float] = [at for at in tokens if at in ended]
    requests = sum(ended[at] for at in both)
    return max(1.0, sum(tokens[at] for at in both) / requests) if requests else 1.0
