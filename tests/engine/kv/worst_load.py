"""A core under the worst load that its limits allow, in a process of its own: its memory beside its plan.

`python worst_load.py MODEL LIMIT_MIB [SETTINGS as JSON]` prints one JSON object. Memory is what cannot be
given back: anonymous pages, sampled every few milliseconds; a mapped model file is the system's to drop.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.machine import Machine
from slipway_engine.core.messages import NewRequest
from slipway_engine.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Limited(Machine):
    """This machine, with another limit."""

    limit: int = 0

    def memory_limit(self) -> int:
        return self.limit


class Peak(threading.Thread):
    """Watches this process's anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.wanted = True

    def run(self) -> None:
        while self.wanted:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.003)


def anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no RssAnon.")


def load(core: EngineCore, seqs: int) -> int:
    """Fill every seat and the cache, with all that makes a step hold more; return the most blocks in use."""
    numbers = random.Random(1)
    length, vocab = core.ready.max_model_len, core.ready.vocab_size
    capacity = core.memory.max_tokens
    most = 0
    for seat in range(seqs + 2):
        # The first alone takes what one may; the others share the cache, and then some.
        prompt = length - 30 if seat == 0 else max(8, min(length - 30, 2 * capacity // seqs))
        tokens = tuple(numbers.randrange(vocab) for _ in range(prompt))
        sampling = SamplingParams(
            max_tokens=24, temperature=0.8, top_k=40, top_p=0.9, min_p=0.01, logprobs=20, seed=seat,
            repetition_penalty=1.2, presence_penalty=0.5, ignore_eos=True,
            logit_bias={1: -1.0}, n=2 if seat % 3 == 1 else 1,
        )  # fmt: skip
        request = NewRequest(
            f"{seat}", tokens, sampling, time.monotonic(), prompt_logprobs=20 if seat % 4 == 1 else None
        )
        core.add_request(request)
    while core.has_work():
        for output in core.step().outputs:
            assert output.error is None, output.error
        most = max(most, core.stats().kv_blocks_used)
    core.check_idle()
    return most


def main(model: str, limit: str, settings: str = "{}") -> None:
    asked: dict[str, Any] = {"device": "cpu", "num_threads": 1, **json.loads(settings)}
    before = anonymous()
    peak = Peak()
    peak.start()
    core = EngineCore(EngineConfig(Path(model), **asked), Limited(limit=int(limit) << 20))
    loaded = anonymous()
    most = load(core, core.ready.max_num_seqs)
    peak.wanted = False
    peak.join()
    plan = core.memory
    print(
        json.dumps(
            {
                "before": before, "loaded": loaded, "peak": peak.peak, "usable": plan.usable,
                "planned": plan.baseline + plan.weights + plan.workspace + plan.kv_cache,
                "baseline": plan.baseline, "weights": plan.weights, "workspace": plan.workspace,
                "kv_cache": plan.kv_cache, "blocks": plan.num_blocks, "most_blocks": most,
                "max_model_len": plan.max_model_len, "backend": type(core._backend).__name__,
                "dtype": core.ready.dtype,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
