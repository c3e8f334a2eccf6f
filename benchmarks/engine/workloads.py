"""The workloads, as data: how many requests of which lengths come, and what is measured.

A: 32 requests at once, 128 tokens in and out. B: one of them. C: 32 requests that share their first 512
tokens, 8 at a time. D: one prompt of 2,000 tokens. Prompts are token ids of random lower-case words, new
ones in each run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """`shared` of the `prompt` tokens are the same in all requests; `metrics` are keys of a result."""

    requests: int
    prompt: int
    output: int
    concurrency: int
    metrics: tuple[str, ...]
    shared: int = 0

    def prompts(self, vocabulary: Sequence[int], seed: int) -> list[list[int]]:
        """Return the token ids of each request."""
        draw = random.Random(seed)
        common = draw.choices(vocabulary, k=self.shared)
        own = self.prompt - self.shared
        return [common + draw.choices(vocabulary, k=own) for _ in range(self.requests)]


WORKLOADS = {
    "A": Workload(32, 128, 128, 32, ("output_tokens_per_second",)),
    "B": Workload(1, 128, 128, 1, ("ttft_ms", "decode_tokens_per_second")),
    "C": Workload(32, 544, 32, 8, ("seconds",), shared=512),
    "D": Workload(1, 2000, 1, 1, ("seconds",)),
}
HIGHER_IS_BETTER = {"output_tokens_per_second", "decode_tokens_per_second"}


def figures(arrivals: Sequence[float], tokens: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return a run's figures from when each request was sent and each of its tokens came."""
    first, last = min(arrivals), max(times[-1] for times in tokens)
    count = sum(map(len, tokens))
    waits = [times[0] - sent for sent, times in zip(arrivals, tokens, strict=True)]
    figures = {
        "seconds": last - first,
        "output_tokens_per_second": count / (last - first),
        "ttft_ms": 1000 * sum(waits) / len(waits),
    }
    gaps = [(times[-1] - times[0]) / (len(times) - 1) for times in tokens if len(times) > 1]
    if gaps:
        figures["decode_tokens_per_second"] = len(gaps) / sum(gaps)
    return figures
