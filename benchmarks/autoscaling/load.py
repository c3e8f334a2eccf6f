"""The client, which runs as a pod: requests at a rate that goes in steps, whatever becomes of them.

Reads its task from the environment: URL, MODEL, PHASES (`SECONDS:REQUESTS_A_SECOND,...`), TOKENS, SEED and
BURST. Gaps are exponential and seeded, so two runs ask at the same moments. Writes JSON, a line a request.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time

import aiohttp

DEADLINE = 120.0


def arrivals(phases: list[tuple[float, float]], seed: int) -> list[float]:
    """Return the seconds at which requests begin."""
    draw, found, begin = random.Random(seed), [], 0.0
    for seconds, rate in phases:
        at = begin
        while rate and (at := at + draw.expovariate(rate)) < begin + seconds:
            found.append(at)
        begin += seconds
    return found


async def ask(session: aiohttp.ClientSession, began: float, at: float, number: int) -> None:
    """Send one request at its time and write down how it went."""
    await asyncio.sleep(began + at - time.monotonic())
    body = {
        "model": os.environ["MODEL"],
        "messages": [{"role": "user", "content": f"Question {number}: what is a slipway?"}],
        "max_tokens": int(os.environ["TOKENS"]),
        "stream": True,
        "ignore_eos": True,
    }
    sent, first, error, text = time.monotonic(), None, None, b""
    try:
        async with asyncio.timeout(DEADLINE), session.post(os.environ["URL"], json=body) as answer:
            async for line in answer.content:
                first = first or (time.monotonic() - sent if b'"content"' in line else None)
                text = line if line.strip() else text
            if answer.status != 200 or b"[DONE]" not in text:
                error = f"{answer.status} {text[:200]!r}"
    except (aiohttp.ClientError, OSError, TimeoutError) as problem:
        error = repr(problem)[:200]
    took = time.monotonic() - sent
    print(json.dumps({"at": round(at, 3), "ttft": first, "seconds": took, "error": error}), flush=True)


async def main() -> None:
    """Run all phases."""
    phases = [tuple(map(float, phase.split(":"))) for phase in os.environ["PHASES"].split(",") if phase]
    moments = [0.0] * int(os.environ["BURST"])  # all at once, to find out what a replica bears
    moments += arrivals(phases, int(os.environ["SEED"]))  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False) as session:
        began = time.monotonic()
        print(json.dumps({"began": time.time()}), flush=True)
        asked = (ask(session, began, at, number) for number, at in enumerate(moments))
        await asyncio.gather(*asked, asyncio.sleep(sum(seconds for seconds, _ in phases)))
    print(json.dumps({"over": time.time()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
