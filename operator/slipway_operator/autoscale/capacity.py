"""What one replica can bear, learned from what it bore: the requests in flight that it serves within the SLO.

The time per output token grows with the requests that run together, nearly on a line, TPOT = a + b R: that is
fitted as samples come, old ones fading. Memory and admission bound it too. Nothing needs to be configured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from slipway_operator.autoscale.load import PodLoad

FADING: Final = 0.995
"""Weight that a sample keeps when the next one comes: about the last 200 count."""

MIN_WEIGHT: Final = 10.0
MIN_SPREAD: Final = 1.0
SATURATED_WAITING: Final = 5.0
SATURATION_SECONDS: Final = 4 * 3600.0
KV_SHARE: Final = 0.85
SLO_SHARE: Final = 0.9
BUSY: Final = 1.0
MIN_ENDS: Final = 0.5
"""The sum of requests that ended a second from which on it tells how long one runs."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Faded sums of the fit, and the last time a replica was seen full. It survives a restart in the status.

    `weight`, `r`, `t`, `rr`, `rt` are the sums of 1, R, TPOT, R*R and R*TPOT. `full` is the mean number of
    running requests beside which at least five waited, `full_at` when. `per_cache` is the number that would
    fill the KV cache. `busy`, `spent` and `ends` are the faded sums of R, R/TPOT and requests ended a second:
    by Little's law busy/ends is how long a request runs, and spent/ends how many tokens' time.
    """

    weight: float = 0.0
    r: float = 0.0
    t: float = 0.0
    rr: float = 0.0
    rt: float = 0.0
    full: float | None = None
    full_at: float = 0.0
    per_cache: float | None = None
    busy: float = 0.0
    spent: float = 0.0
    ends: float = 0.0

    def line(self) -> tuple[float, float] | None:
        """Return (a, b) of TPOT = a + b R in seconds; None where the samples do not tell."""
        if self.weight < MIN_WEIGHT:
            return None
        mean_r, mean_t = self.r / self.weight, self.t / self.weight
        spread = self.rr / self.weight - mean_r**2
        if spread < MIN_SPREAD:
            return None
        slope = (self.rt / self.weight - mean_r * mean_t) / spread
        return (mean_t - slope * mean_r, slope) if slope > 0 else None


def learn(learned: Learned, pods: Iterable[PodLoad], now: float) -> Learned:
    """Return what is known after one more look at the pods."""
    for pod in pods:
        learned = _fit(learned, pod)
        learned = _saturation(learned, pod, now)
        learned = _stay(_cache(learned, pod), pod)
    if learned.full is not None and now - learned.full_at > SATURATION_SECONDS:
        learned = replace(learned, full=None)
    return learned


def capacity(learned: Learned, max_num_seqs: int, tpot_slo: float | None) -> tuple[float, str]:
    """Return the requests in flight that one replica bears, and what bounds them, in words."""
    bounds = [(float(max_num_seqs), "maxNumSeqs")]
    line = learned.line()
    if line is not None and tpot_slo is not None:
        bounds.append(((SLO_SHARE * tpot_slo - line[0]) / line[1], "the time per output token"))
    elif tpot_slo is not None and learned.t > SLO_SHARE * tpot_slo * learned.weight > 0:
        # Too alike for a line, but too slow: with a > 0 fewer than in proportion fit.
        bounds.append((SLO_SHARE * tpot_slo * learned.r / learned.t, "the time per output token"))
    if learned.per_cache is not None:
        bounds.append((KV_SHARE * learned.per_cache, "the KV cache"))
    if learned.full is not None:
        bounds.append((learned.full, "requests that waited"))
    value, why = min(bounds)
    return max(1.0, value), why


def stay(learned: Learned, beside: float) -> float | None:
    """Return the seconds that a request runs in a replica of `beside` running ones; None where not known."""
    if learned.ends < MIN_ENDS:
        return None
    line = learned.line()
    if line is None or not learned.spent:
        return learned.busy / learned.ends
    return learned.spent / learned.ends * (line[0] + line[1] * beside)


def slowness(learned: Learned, running: float, bears: float) -> float:
    """Return how much longer a request runs among `running` than among the `bears` of a well-filled replica.

    At least 1. Crowded replicas hold their requests longer, so their number overstates the traffic.
    """
    line = learned.line()
    if line is None or running <= bears:
        return 1.0
    return (line[0] + line[1] * running) / (line[0] + line[1] * bears)


def _fit(learned: Learned, pod: PodLoad) -> Learned:
    if pod.tpot is None or pod.running < BUSY:
        return learned
    r, t = pod.running, pod.tpot
    return replace(
        learned,
        weight=FADING * learned.weight + 1,
        r=FADING * learned.r + r,
        t=FADING * learned.t + t,
        rr=FADING * learned.rr + r * r,
        rt=FADING * learned.rt + r * t,
    )


def _saturation(learned: Learned, pod: PodLoad, now: float) -> Learned:
    if pod.waiting < SATURATED_WAITING or pod.running < BUSY:
        return learned
    full = pod.running if learned.full is None else 0.9 * learned.full + 0.1 * pod.running
    return replace(learned, full=full, full_at=now)


def _cache(learned: Learned, pod: PodLoad) -> Learned:
    """Learn how many requests would fill the KV cache; only a cache in use can tell."""
    if pod.kv_cache is None or pod.kv_cache < 0.2 or pod.running < BUSY:
        return learned
    seen = pod.running / pod.kv_cache
    known = learned.per_cache
    return replace(learned, per_cache=seen if known is None else 0.95 * known + 0.05 * seen)


def _stay(learned: Learned, pod: PodLoad) -> Learned:
    """Learn how long a request runs: running requests over those that end a second."""
    if pod.finishing is None or pod.running < BUSY:
        return learned
    return replace(
        learned,
        busy=FADING * learned.busy + pod.running,
        spent=FADING * learned.spent + (pod.running / pod.tpot if pod.tpot else 0.0),
        ends=FADING * learned.ends + pod.finishing,
    )
