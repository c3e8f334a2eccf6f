"""`slipway-engine bench`: many requests at once, against a server or the core itself; the times they saw."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from slipway_engine.cli.flags import add_engine_flags, add_source_flags, engine_config, model_path, positive
from slipway_engine.core.messages import NewRequest
from slipway_engine.errors import DownloadFailed, EngineError
from slipway_engine.sampling import SamplingParams
from slipway_engine.sources.progress import waiting

_SYLLABLES = [consonant + vowel for consonant in "bdfklmnrst" for vowel in "aeio"]


@dataclass(slots=True)
class Timing:
    """When one request was sent, and when each of its tokens arrived."""

    sent: float
    tokens: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.tokens[0] - self.sent

    @property
    def between(self) -> list[float]:
        """Seconds between tokens."""
        return [later - earlier for earlier, later in zip(self.tokens, self.tokens[1:], strict=False)]


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure a model or a server",
        description="Send requests of random words, each with its own prompt, and print time to first token, "
        "time between tokens and throughput. Without --url the model runs in this process.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="GGUF file, model directory, or source")
    parser.add_argument("--url", metavar="URL", help="a server to measure, such as http://127.0.0.1:8000")
    parser.add_argument("--model-name", metavar="NAME", help="the name that the server knows the model by")
    parser.add_argument("--requests", type=positive, default=32, metavar="N", help="default: 32")
    parser.add_argument(
        "--concurrency", type=positive, default=32, metavar="N", help="at one time (default: 32)"
    )
    parser.add_argument("--input-len", type=positive, default=128, metavar="N", help="words (default: 128)")
    parser.add_argument("--output-len", type=positive, default=128, metavar="N", help="tokens (default: 128)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_engine_flags(parser)
    add_source_flags(parser)
    parser.set_defaults(run=lambda arguments: run(parser, arguments))
    return parser


def run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Measure; print the figures."""
    if (arguments.model is None) == (arguments.url is None):
        parser.error("give either MODEL or --url URL")
    prompts = _prompts(arguments)
    if arguments.url is None:
        timings, seconds = _in_process(arguments, prompts)
    else:
        timings, seconds = asyncio.run(_over_http(arguments, prompts))
    figures = summarize(timings, seconds)
    print(json.dumps(figures) if arguments.json else _table(figures))
    return 0


def summarize(timings: Sequence[Timing], seconds: float) -> dict[str, float]:
    """Return the figures of a run."""
    firsts = [timing.first for timing in timings]
    between = [gap for timing in timings for gap in timing.between] or [0.0]
    tokens = sum(len(timing.tokens) for timing in timings)
    return {
        "requests": len(timings),
        "seconds": round(seconds, 3),
        "output_tokens": tokens,
        "output_tokens_per_second": round(tokens / seconds, 2),
        "ttft_ms_p50": round(1000 * _quantile(firsts, 0.5), 1),
        "ttft_ms_p99": round(1000 * _quantile(firsts, 0.99), 1),
        "itl_ms_p50": round(1000 * _quantile(between, 0.5), 2),
        "itl_ms_p99": round(1000 * _quantile(between, 0.99), 2),
        "itl_ms_mean": round(1000 * statistics.fmean(between), 2),
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _table(figures: dict[str, float]) -> str:
    width = max(map(len, figures))
    return "\n".join(f"{name:{width}}  {value:g}" for name, value in figures.items())


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """Return different prompts, the same in each run with the same seed."""
    draw = random.Random(arguments.seed or 0)  # noqa: S311 - words, not secrets

    def word() -> str:
        return "".join(draw.choices(_SYLLABLES, k=draw.randint(1, 3)))

    return [" ".join(word() for _ in range(arguments.input_len)) for _ in range(arguments.requests)]


def _in_process(arguments: argparse.Namespace, prompts: Sequence[str]) -> tuple[list[Timing], float]:
    from slipway_engine.tokenizer.load import load_tokenizer

    model = model_path(arguments.model, arguments.revision, allow_http=arguments.allow_http)
    with waiting("Loading the model"):
        tokenizer = load_tokenizer(model)
        from slipway_engine.core.engine import EngineCore  # brings torch, which --help can do without

        core = EngineCore(engine_config(arguments, model))
    sampling = SamplingParams(max_tokens=arguments.output_len, temperature=0, ignore_eos=True)
    queue = [(str(n), tuple(tokenizer.encode(prompt))) for n, prompt in enumerate(prompts)]
    timings: dict[str, Timing] = {}
    running, began = 0, time.monotonic()
    while queue or core.has_work():
        while queue and running < arguments.concurrency:
            name, prompt = queue.pop(0)
            timings[name] = Timing(time.monotonic())
            core.add_request(NewRequest(name, prompt, sampling, time.monotonic()))
            running += 1
        outputs = core.step().outputs
        now = time.monotonic()
        for output in outputs:
            if output.error is not None:
                raise EngineError(output.error)
            timings[output.request_id].tokens += [now] * len(output.new_token_ids)
            running -= output.finish_reason is not None
    return list(timings.values()), time.monotonic() - began


async def _over_http(arguments: argparse.Namespace, prompts: Sequence[str]) -> tuple[list[Timing], float]:
    body = {
        "max_tokens": arguments.output_len,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    if arguments.model_name is not None:
        body["model"] = arguments.model_name
    turns = asyncio.Semaphore(arguments.concurrency)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=arguments.url, timeout=None, limits=limits) as client:  # noqa: S113
        began = time.monotonic()
        timings = await asyncio.gather(*(_one(client, turns, {**body, "prompt": text}) for text in prompts))
    return timings, time.monotonic() - began


async def _one(client: httpx.AsyncClient, turns: asyncio.Semaphore, body: dict[str, Any]) -> Timing:
    async with turns:
        timing = Timing(time.monotonic())
        try:
            async with client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != 200:
                    raise EngineError(
                        f"The server answered {response.status_code}: {await response.aread()!r}"
                    )
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        timing.tokens.append(time.monotonic())
        except httpx.TransportError as error:
            raise DownloadFailed(f"{client.base_url} does not answer ({error}); is the server up?") from error
    if not timing.tokens:
        raise EngineError("The server sent no tokens.")
    return timing
