"""Measure a deployment from where you stand: time to first token, time per output token, throughput.

Requests of random words go out, so many at a time; a forwarded port carries them, which costs some: for
figures that count, run it in the cluster with --url http://NAME.NAMESPACE.
"""

from __future__ import annotations

import asyncio
import random
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any, Final

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from slipway_operator.plugin import endpoint, openai, screen
from slipway_operator.plugin.errors import PluginError
from slipway_operator.plugin.kubectl import Kubectl
from slipway_operator.ranks import nearest_rank

NAME = "bench"
SUMMARY = "measure a deployment: TTFT, TPOT, throughput"
WORDS: Final = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
]


@dataclass(frozen=True)
class Timing:
    """One request: seconds to the first token and to the end, the gaps between pieces, tokens generated."""

    first: float
    total: float
    gaps: tuple[float, ...]
    tokens: int


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("name", help="the LLMDeployment")
    parser.add_argument("--requests", type=_count, default=32, help="requests in all (default 32)")
    parser.add_argument("--concurrency", type=_count, default=4, help="requests at a time (default 4)")
    parser.add_argument("--input-words", type=_count, default=100, help="words of each prompt (default 100)")
    parser.add_argument("--output-tokens", type=_count, default=64, help="longest answer (default 64)")
    parser.add_argument("--model", help="served name to ask for; the first one where absent")
    parser.add_argument("--seed", type=int, default=0, help="of the random words (default 0)")
    endpoint.arguments(parser)


def run(options: Namespace, cluster: Kubectl) -> int:
    """Measure, and print a table; 1 where every request failed."""
    with endpoint.reach(options, cluster) as base:
        timings, failures, seconds = asyncio.run(_measure(options, base))
    if not timings:
        raise PluginError(f"All {len(failures)} requests failed; the first: {failures[0]}")
    report = summarise(timings, failures, seconds)
    if options.output == "text":
        _print(options, report)
    else:
        screen.machine(report, options.output)
    return 0


def summarise(timings: Sequence[Timing], failures: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return the figures; times in milliseconds. TPOT is the mean gap of a request, as vLLM counts it."""
    tokens = sum(timing.tokens for timing in timings)
    per_token = [
        1000 * (timing.total - timing.first) / (timing.tokens - 1) for timing in timings if timing.tokens > 1
    ]
    gaps = [1000 * gap for timing in timings for gap in timing.gaps]
    return {
        "requests": len(timings),
        "failed": len(failures),
        "failures": sorted(set(failures))[:3],
        "seconds": round(seconds, 3),
        "outputTokens": tokens,
        "outputTokensPerSecond": round(tokens / seconds, 1),
        "requestsPerSecond": round(len(timings) / seconds, 2),
        "ttftMs": spread([1000 * timing.first for timing in timings]),
        "tpotMs": spread(per_token),
        "gapMs": spread(gaps),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, median, 95th and 99th percentile (nearest rank) of some values."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {f"p{part}": nearest_rank(ordered, part) for part in (95, 99)}
    found = {"mean": fmean(ordered), "p50": median(ordered), **ranks}
    return {name: round(value, 2) for name, value in found.items()}


async def _measure(options: Namespace, base: str) -> tuple[list[Timing], list[str], float]:
    timings: list[Timing] = []
    failures: list[str] = []
    words = random.Random(options.seed)  # noqa: S311 - prompts, not secrets
    prompts = iter([_prompt(words, options.input_words) for _ in range(options.requests)])
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    async with openai.session() as session:
        client = openai.Client(session, base, options.key)
        names = [options.model] if options.model else await client.models()
        if not names:
            raise PluginError("The endpoint serves no model yet; try again in a moment.")
        with Progress(*columns, console=screen.errors(), transient=True) as progress:
            task = progress.add_task("requests", total=options.requests)

            async def work() -> None:
                for prompt in prompts:
                    try:
                        timings.append(await _one(client, names[0], prompt, options.output_tokens))
                    except PluginError as error:
                        failures.append(str(error))
                    progress.advance(task)

            began = time.monotonic()
            await asyncio.gather(*(work() for _ in range(options.concurrency)))
            return timings, failures, time.monotonic() - began


async def _one(client: openai.Client, model: str, prompt: str, tokens: int) -> Timing:
    began, moments, counted = time.monotonic(), [], 0
    messages = [{"role": "user", "content": prompt}]
    async for piece in client.chat(model, messages, max_tokens=tokens, temperature=0):
        counted = piece.completion_tokens or counted
        if piece.text:
            moments.append(piece.at)
    if not moments:
        raise PluginError("The answer was empty.")
    gaps = tuple(after - before for before, after in pairwise(moments))
    return Timing(moments[0] - began, moments[-1] - began, gaps, counted or len(moments))


def _prompt(words: random.Random, count: int) -> str:
    return " ".join(words.choice(WORDS) for _ in range(count))


def _print(options: Namespace, report: dict[str, Any]) -> None:
    columns = ("ms", "mean", "p50", "p95", "p99")
    rows = [
        (name, *(f"{report[key].get(column, float('nan')):.1f}" for column in columns[1:]))
        for name, key in (
            ("time to first token", "ttftMs"),
            ("time per output token", "tpotMs"),
            ("gap", "gapMs"),
        )
    ]
    title = f"{report['requests']} requests, {options.concurrency} at a time, {report['failed']} failed"
    out = screen.console()
    out.print(screen.table(title, columns, rows))
    out.print(
        f"{report['outputTokensPerSecond']} output tokens/s, {report['requestsPerSecond']} requests/s, "
        f"{report['seconds']} s"
    )
    for failure in report["failures"]:
        screen.tell(failure)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise ArgumentTypeError(f"{text} is outside 1 to 100000")
    return value
