"""Traffic: when requests arrive, how long their prompts and answers are; from a file, or made up.

A file is CSV with the columns TIMESTAMP (ISO 8601), ContextTokens and GeneratedTokens, which is the form of
Azure's public LLM inference traces (Splitwise, ISCA 2024); such files are not shipped, `--trace` names yours.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOST_REQUESTS: Final = 5_000_000


class TraceError(ValueError):
    """The trace cannot be read; the sentence names the line and what should stand there."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: seconds since the start, tokens of the prompt, tokens of the answer."""

    at: float
    prompt: int
    answer: int


def read(path: Path) -> list[Arrival]:
    """Return the requests of a file, by time. Raises TraceError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise TraceError(
                    f"{path} has no column {', '.join(missing)}; write {', '.join(COLUMNS)} first."
                )
            found = [_row(path, number, row) for number, row in enumerate(rows, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {error}.") from error
    if not found:
        raise TraceError(f"{path} holds no request.")
    start = min(arrival.at for arrival in found)
    return sorted((Arrival(a.at - start, a.prompt, a.answer) for a in found), key=lambda a: a.at)


def stretched(trace: Sequence[Arrival], rate: float, seed: int) -> list[Arrival]:
    """Return the trace with `rate` times as many requests in the same time: its shape stays."""
    source = random.Random(seed)  # noqa: S311 - a simulation, no secret
    result: list[Arrival] = []
    for arrival in trace:
        copies = int(rate) + (source.random() < rate % 1)
        for _ in range(copies):
            shift = source.uniform(0, 10) if rate > 1 else 0.0
            result.append(Arrival(arrival.at + shift, arrival.prompt, arrival.answer))
    return sorted(result, key=lambda a: a.at)


def burst_day(
    seed: int, hours: float = 6.0, mean_rate: float = 2.0, burst: float = 3.0, ramp: float = 180.0
) -> list[Arrival]:
    """Return a made-up day: a slow wave, and every so often some minutes of `burst` times the traffic.

    A burst takes `ramp` seconds to come and to go. Lengths are log-normal around 1,155 tokens in and 211 out,
    the means of Azure's conversation trace.
    """
    source = random.Random(seed)  # noqa: S311 - a simulation, no secret
    seconds = hours * 3600
    bursts = [(source.uniform(0, seconds), source.uniform(360, 900)) for _ in range(int(hours * 1.5))]

    def rate(at: float) -> float:
        wave = mean_rate * (1 + 0.6 * math.sin(2 * math.pi * at / seconds - math.pi / 2))
        heights = (min((at - begin) / ramp, (begin + length - at) / ramp, 1.0) for begin, length in bursts)
        return wave * (1 + (burst - 1) * max(0.0, max(heights, default=0.0)))

    result: list[Arrival] = []
    at, highest = 0.0, 1.6 * mean_rate * burst
    while (at := at + source.expovariate(highest)) < seconds:
        if source.random() < rate(at) / highest and len(result) < MOST_REQUESTS:
            result.append(Arrival(at, length(source, 1155), length(source, 211)))
    return result


def length(source: random.Random, mean: float, sigma: float = 0.8) -> int:
    """Return a made-up number of tokens, log-normal around a mean."""
    return max(2, min(16_384, round(source.lognormvariate(math.log(mean) - sigma**2 / 2, sigma))))


def _row(path: Path, number: int, row: dict[str, str | None]) -> Arrival:
    try:
        at = datetime.fromisoformat(str(row["TIMESTAMP"])[:26]).timestamp()
        prompt, answer = int(row["ContextTokens"] or ""), int(row["GeneratedTokens"] or "")
    except ValueError as error:
        raise TraceError(
            f"{path}, line {number}: {error}; write a time such as 2023-11-16 18:15:46.68 and "
            "two whole numbers."
        ) from error
    if prompt < 0 or answer < 0:
        raise TraceError(f"{path}, line {number}: tokens cannot be negative.")
    return Arrival(at, max(1, prompt), max(1, answer))
