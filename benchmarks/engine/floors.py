"""What no engine on this machine could beat: each workload's operations and bytes over the measured rates.

Counted: the products of all weights, attention's products at float32's rate, the weights' bytes once a step.
Left out: keys and values, norms, sampling and everything that is not arithmetic. A step takes the longer of
its operations and its bytes; chunks of a prompt are taken to be so large that their bytes do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway_engine.models.config import DecoderConfig


@dataclass(frozen=True)
class Sizes:
    """A decoder's sizes: weights in the layers and in the head, and attention's products for a pair."""

    layers: int
    head: int
    pair: int
    """Operations for one query and one key, in all layers."""

    @classmethod
    def of(cls, config: DecoderConfig) -> Sizes:
        """Count a dense decoder."""
        width = config.hidden_size
        attention = width * (2 * config.query_size + 2 * config.kv_size)
        layer = attention + 3 * width * config.intermediate_size
        return cls(
            layer * config.num_layers, width * config.vocab_size, 4 * config.query_size * config.num_layers
        )


@dataclass(frozen=True)
class Rates:
    """Operations of products and of attention, and bytes, all a second; a step reads `weights` bytes."""

    operations: float
    attention: float
    reads: float
    weights: float


def floors(sizes: Sizes, rates: Rates) -> dict[tuple[str, str], float]:
    """Return the best possible figure of (workload, metric)."""

    def prompts(tokens: int, pairs: float, requests: int) -> float:
        products = 2 * (sizes.layers * tokens + sizes.head * requests)
        return products / rates.operations + sizes.pair * pairs / rates.attention

    def steps(count: int, batch: int, context: float) -> float:
        products = 2 * (sizes.layers + sizes.head) * batch
        seconds = products / rates.operations + sizes.pair * context * batch / rates.attention
        return count * max(seconds, rates.weights / rates.reads)

    first = max(prompts(128, 128**2 / 2, 1), steps(1, 1, 0))
    shared = prompts(512, 512**2 / 2, 0) + prompts(32 * 32, 32 * 32 * 528, 32) + steps(4 * 31, 8, 560)
    return {
        ("A", "output_tokens_per_second"): 32
        * 128
        / (prompts(32 * 128, 32 * 128**2 / 2, 32) + steps(127, 32, 192)),
        ("B", "ttft_ms"): 1000 * first,
        ("B", "decode_tokens_per_second"): 1 / steps(1, 1, 192),
        ("C", "seconds"): shared,
        ("D", "seconds"): prompts(2000, 2000**2 / 2, 1),
    }
