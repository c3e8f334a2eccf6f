"""Expected times from a device's peaks: the roofline model (Williams, Waterman and Patterson, 2009).

A step takes as long as its slower part: moving bytes (weights that its tokens pass through, keys and values)
or computing. The lower end of a range is that with every peak reached. The upper end assumes what engines
usually get, `USUAL_BANDWIDTH` and `USUAL_COMPUTE` of the peaks and the fixed cost of a step. Both are for one
request on an idle replica; waiting behind others comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from slipway_api.device import Device
from slipway_api.facts import ModelFacts
from slipway_api.needs import Shape, float_bytes, kv_bytes, weight_bytes

USUAL_BANDWIDTH: Final = 0.5
USUAL_COMPUTE: Final = 0.35
STEP_SECONDS: Final = 0.002
"""Fixed cost of a step on an accelerator: scheduling, launches, sampling."""
COLLECTIVE_SECONDS: Final = 15e-6
"""Latency of one all-reduce within a node; there are two a layer."""
NETWORK_LINK: Final = 3e9
"""Bytes a second between pods, where stages of a pipeline hand over (a 25 Gbit/s network)."""


@dataclass(frozen=True, slots=True)
class Range:
    """A range of milliseconds: `low` with all peaks reached, `high` as it usually is."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Expected:
    """Times of one request of `prompt_tokens` on an idle replica."""

    prompt_tokens: int
    ttft: Range
    tpot: Range


def expect(facts: ModelFacts, shape: Shape, device: Device, prompt_tokens: int) -> Expected:
    """Return the expected times of a request; the context of its decode steps is the prompt."""
    decode = _step(facts, shape, device, tokens=1, context=prompt_tokens)
    prefill = _step(facts, shape, device, tokens=prompt_tokens, context=prompt_tokens)
    return Expected(prompt_tokens, prefill, decode)


def _step(facts: ModelFacts, shape: Shape, device: Device, *, tokens: int, context: int) -> Range:
    """Return the time of one step that computes `tokens` of one request; stages follow one another."""
    together = shape.tensor
    moved = _weights_touched(facts, shape, tokens) + context * _kv_token(facts, shape)
    computed = _operations(facts, tokens, context)
    bandwidth, compute = device.bandwidth * together, device.compute(*_types(facts, shape)) * together
    talk = _communication(facts, shape, device, tokens)
    low = max(moved / bandwidth, computed / compute) + talk
    fixed = STEP_SECONDS * shape.pipeline if not device.cpu else 0.0
    high = max(moved / (bandwidth * USUAL_BANDWIDTH), computed / (compute * USUAL_COMPUTE)) + 2 * talk + fixed
    return Range(low * 1000, high * 1000)


def _weights_touched(facts: ModelFacts, shape: Shape, tokens: int) -> float:
    """Return the bytes of weights that a step reads: of a mixture, the experts that its tokens choose."""
    total = weight_bytes(facts, shape)
    if not facts.experts:
        return total
    chosen = 1 - (1 - facts.experts_per_token / facts.experts) ** tokens
    experts = total * facts.expert_parameters / facts.parameters
    return total - experts * (1 - chosen)


def _kv_token(facts: ModelFacts, shape: Shape) -> int:
    return kv_bytes(facts.kv_width, float_bytes(facts, shape), shape) * facts.kv_layers


def _operations(facts: ModelFacts, tokens: int, context: int) -> float:
    """Return multiplications and additions: two a parameter and token, and attention over half the context.

    Embedding rows are looked up, and logits computed for the last token alone.
    """
    per_token = max(1, facts.active_parameters - facts.embedding_parameters)
    logits = facts.vocab * facts.hidden
    pairs = tokens * (context - (tokens - 1) / 2)
    attention = 4 * facts.heads * facts.head_dim * facts.kv_layers * pairs
    return 2 * per_token * tokens + 2 * logits + attention


def _types(facts: ModelFacts, shape: Shape) -> tuple[str, ...]:
    """Return what matrix products can take in, best first."""
    packed = (facts.quantization or "").lower() if shape.weights == "auto" else shape.weights
    if shape.cpu:
        return ("int8",) if packed not in ("", "none") else ("float32",)
    if "fp8" in packed:
        return ("fp8", "bfloat16", "float16")
    return ("float16", "bfloat16") if facts.dtype == "F16" else ("bfloat16", "float16")


def _communication(facts: ModelFacts, shape: Shape, device: Device, tokens: int) -> float:
    """Return the seconds that ranks and stages take to exchange activations."""
    size = tokens * facts.hidden * float_bytes(facts, shape)
    seconds = 0.0
    if shape.tensor > 1:
        ring = 2 * (shape.tensor - 1) / shape.tensor * size / device.link
        seconds += 2 * facts.layers * (COLLECTIVE_SECONDS + ring)
    if shape.pipeline > 1:
        alone = shape.tensor * shape.pipeline <= device.per_node
        seconds += (shape.pipeline - 1) * size / (device.link if alone else NETWORK_LINK)
    return seconds
