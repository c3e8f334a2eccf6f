"""The workloads, as data: how many requests of which lengths come when, and what is measured.

A: 32 requests at once, 128 tokens in and out. B: one of them. C: 32 requests that share their first 512
tokens, 8 at a time. D: one prompt of 2,000 tokens. E: a service's recorded traffic, an eighth of its lengths,
at the rate that is asked for. F: as C, but no two prompts begin alike, which is what a prefix cache costs.
Prompts are token ids of random lower-case words, new ones in each run.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

REQUESTS_OF_TRACE = 80
SHORTENED = 8


@dataclass(frozen=True)
class Job:
    """One run: token ids and answer lengths of its requests; `arrivals` in seconds, or as seats get free."""

    prompts: list[list[int]]
    outputs: list[int]
    concurrency: int
    arrivals: list[float] | None = None


@dataclass(frozen=True)
class Workload:
    """`shared` of the `prompt` tokens are the same in all requests; `metrics` are keys of a result.

    `warmups` are rounds that do not count: F's fill the whole cache once, because the first write of memory
    is the system's cost, and a cache that forgets nothing writes to more of it than one that does.
    """

    requests: int
    prompt: int
    output: int
    concurrency: int
    metrics: tuple[str, ...]
    shared: int = 0
    warmups: int = 1

    def job(self, vocabulary: Sequence[int], seed: int) -> Job:
        """Return a run."""
        draw = random.Random(seed)
        common = draw.choices(vocabulary, k=self.shared)
        own = self.prompt - self.shared
        prompts = [common + draw.choices(vocabulary, k=own) for _ in range(self.requests)]
        return Job(prompts, [self.output] * self.requests, self.concurrency)


WORKLOADS = {
    "A": Workload(32, 128, 128, 32, ("output_tokens_per_second",)),
    "B": Workload(1, 128, 128, 1, ("ttft_ms", "decode_tokens_per_second", "outside_kernels_percent")),
    "C": Workload(32, 544, 32, 8, ("seconds",), shared=512),
    "D": Workload(1, 2000, 1, 1, ("seconds",)),
    "F": Workload(32, 544, 32, 8, ("seconds",), warmups=4),
}
TRACED = ("ttft_ms_p99", "itl_ms_p99", "ttft_ms", "itl_ms_p50")
HIGHER_IS_BETTER = {"output_tokens_per_second", "decode_tokens_per_second"}


@dataclass
class Trace:
    """Recorded traffic: a CSV file with the columns TIMESTAMP, ContextTokens, GeneratedTokens."""

    path: Path
    rows: list[tuple[float, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with self.path.open(newline="") as file:
            for row in csv.DictReader(file):
                moment = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
                self.rows.append((moment, int(row["ContextTokens"]), int(row["GeneratedTokens"])))

    @property
    def tokens(self) -> float:
        """Mean tokens of a request as it is replayed, prompt and answer."""
        return sum(context + generated for _, context, generated in self.rows) / len(self.rows) / SHORTENED

    def job(self, vocabulary: Sequence[int], seed: int, rate: float) -> Job:
        """Return a stretch of the traffic, its arrivals pressed together to `rate` requests a second."""
        draw = random.Random(seed)
        start = draw.randrange(len(self.rows) - REQUESTS_OF_TRACE)
        rows = self.rows[start : start + REQUESTS_OF_TRACE]
        faster = rate * (rows[-1][0] - rows[0][0]) / (len(rows) - 1)
        return Job(
            prompts=[draw.choices(vocabulary, k=max(1, context // SHORTENED)) for _, context, _ in rows],
            outputs=[max(1, generated // SHORTENED) for _, _, generated in rows],
            concurrency=len(rows),
            arrivals=[(moment - rows[0][0]) / faster for moment, _, _ in rows],
        )


def figures(arrivals: Sequence[float], tokens: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return a run's figures from when each request was sent and each of its tokens came."""
    first, last = min(arrivals), max(times[-1] for times in tokens)
    count = sum(map(len, tokens))
    waits = [times[0] - sent for sent, times in zip(arrivals, tokens, strict=True)]
    between = [later - earlier for times in tokens for earlier, later in pairwise(times)]
    figures = {
        "seconds": last - first,
        "output_tokens_per_second": count / (last - first),
        "ttft_ms": 1000 * sum(waits) / len(waits),
        "ttft_ms_p99": 1000 * quantile(waits, 0.99),
    }
    gaps = [(times[-1] - times[0]) / (len(times) - 1) for times in tokens if len(times) > 1]
    if gaps:
        figures["decode_tokens_per_second"] = len(gaps) / sum(gaps)
        figures["itl_ms_p50"] = 1000 * quantile(between, 0.5)
        figures["itl_ms_p99"] = 1000 * quantile(between, 0.99)
    return figures


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all do not exceed, as nearly as there are values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
