"""What a model is expected to need of one device, from its facts alone: the input of the memory ledger.

The formulas follow Slipway's engine, which counts the same things exactly once it has opened the files. What
cannot be known from headers is a constant here, named and explained. The worst stage and the worst rank
count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from slipway_api.facts import ModelFacts
from slipway_api.kv_groups import KvGroups, group_layers
from slipway_api.ledger import MIB, OTHER_PROCESS, Needs

Packing: TypeAlias = Literal["auto", "none", "fp8", "int8", "int4"]

PACKED: Final[dict[str, tuple[int, int]]] = {"fp8": (33, 32), "int8": (34, 32), "int4": (18, 32)}
"""Bytes and weights of a block, its scale included."""

CPU_BASELINE: Final = 400 * MIB
"""A Python process with torch loaded."""
GPU_BASELINE: Final = 900 * MIB
"""A CUDA context with the libraries' kernels and workspaces."""
COLLECTIVE_BUFFERS: Final = 400 * MIB
"""What NCCL's channels take once more than one device computes together."""
LOAD_CHUNK: Final = 64 * MIB
FLOAT_BYTES: Final = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}

NATIVE_GGML: Final = frozenset({"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"})
"""GGML types that a CPU computes with as they are; others are unpacked to float32."""
GGML_BLOCKS: Final[dict[str, tuple[int, int]]] = {
    "Q5_0": (22, 32), "Q5_1": (24, 32), "Q8_1": (40, 32), "Q2_K": (84, 256), "Q3_K": (110, 256),
    "Q4_K": (144, 256), "Q5_K": (176, 256), "Q6_K": (210, 256), "Q8_K": (292, 256), "IQ4_NL": (18, 32),
    "IQ4_XS": (136, 256), "MXFP4": (17, 32),
}  # fmt: skip
"""Bytes and weights of a block."""
_OTHER_BLOCK: Final = (64, 256)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a replica is laid out: degrees, packing, and whether its device is a CPU."""

    tensor: int = 1
    pipeline: int = 1
    weights: Packing = "auto"
    kv_cache: Packing = "auto"
    cpu: bool = False


def needs_of(facts: ModelFacts, shape: Shape) -> Needs:
    """Return what the busiest device of a replica is expected to need."""
    itemsize = float_bytes(facts, shape)
    kv_width = _kv_width(facts, shape)
    groups = _kv_groups(facts, shape)
    per_layer = kv_bytes(kv_width, itemsize, shape)
    together = shape.tensor * shape.pipeline > 1
    baseline = CPU_BASELINE if shape.cpu else GPU_BASELINE + (COLLECTIVE_BUFFERS if together else 0)
    widest = max(facts.vocab * facts.hidden, 2 * facts.intermediate * facts.hidden)
    return Needs(
        weights=device_weights(facts, shape),
        load_peak=2 * widest * itemsize if shape.cpu else -(-widest // shape.tensor) * itemsize + LOAD_CHUNK,
        baseline=baseline,
        kv_bytes_per_token=per_layer * groups.places,
        kv_bytes_per_token_layer=0 if shape.cpu else per_layer,
        activation_bytes_per_token=_activations(facts, shape.tensor) * max(itemsize, 4),
        vocab_size=facts.vocab,
        rotary_bytes_per_token=4 * facts.head_dim,
        gather_tokens=0,
        max_position=facts.max_position,
        mask_itemsize=0,
        other_process=OTHER_PROCESS if shape.cpu else 0,
        kv_windows=groups.windows,
    )


def float_bytes(facts: ModelFacts, shape: Shape) -> int:
    """Return the bytes of an element in the type that the engine computes in."""
    return 4 if shape.cpu else FLOAT_BYTES.get(facts.dtype, 2)


def weight_bytes(facts: ModelFacts, shape: Shape) -> int:
    """Return the bytes of all weights in memory."""
    if shape.weights in PACKED:
        return _packed(facts, shape)
    if shape.weights == "none":
        return facts.parameters * float_bytes(facts, shape)
    if facts.format == "gguf":
        return _gguf_on_cpu(facts) if shape.cpu else facts.parameters * float_bytes(facts, shape)
    return facts.weight_bytes


def device_weights(facts: ModelFacts, shape: Shape) -> int:
    """Return the bytes of weights on the device that has most: a stage's layers, and one embedding matrix."""
    total = weight_bytes(facts, shape)
    outside = total * facts.embedding_parameters // facts.parameters
    share = -(-facts.layers // shape.pipeline)
    ends = outside if facts.tied or shape.pipeline == 1 else -(-outside // 2)
    stage = -(-(total - outside) * share // facts.layers) + ends
    return -(-stage // shape.tensor)


def kv_bytes(width: int, itemsize: int, shape: Shape) -> int:
    """Return the bytes that `width` elements of keys and values take."""
    if shape.kv_cache in PACKED:
        size, block = (1, 1) if shape.kv_cache == "fp8" else PACKED[shape.kv_cache]
        return -(-width * size // block)
    if shape.cpu and shape.kv_cache == "auto":
        return 2 * width  # half floats, unless asked otherwise
    return width * itemsize


def _kv_groups(facts: ModelFacts, shape: Shape) -> KvGroups:
    """Return the groups of a stage's layers: one where it is not known which of them slide."""
    if shape.pipeline > 1 or facts.kv_layers < facts.layers or facts.latent:
        return KvGroups(-(-facts.kv_layers // shape.pipeline), (None,))
    counts: dict[int | None, int] = {None: facts.layers}
    for window, layers in facts.windows:
        counts[None] -= layers
        counts[window] = counts.get(window, 0) + layers
    return group_layers(counts, facts.max_position)


def _kv_width(facts: ModelFacts, shape: Shape) -> int:
    """Return the elements that a token keeps in a layer on one device; a key head is never cut."""
    if facts.latent:
        return facts.kv_width
    heads = max(1, -(-facts.kv_heads // shape.tensor))
    return facts.kv_width * heads // facts.kv_heads


def _packed(facts: ModelFacts, shape: Shape) -> int:
    """Return the bytes with the layers packed. Embedding and head stay floats beside fp8, else are bytes."""
    size, block = PACKED[shape.weights]
    outside = facts.embedding_parameters
    packed = -(-(facts.parameters - outside) * size // block)
    if shape.weights == "fp8":
        packed += outside * float_bytes(facts, shape)
    else:
        packed += -(-outside * PACKED["int8"][0] // PACKED["int8"][1])
    return min(packed, weight_bytes(facts, replace(shape, weights="auto")))


def _gguf_on_cpu(facts: ModelFacts) -> int:
    total = 0
    for name, size in facts.weights.items():
        block_bytes, block = GGML_BLOCKS.get(name, _OTHER_BLOCK)
        total += size if name in NATIVE_GGML else 4 * (size * block // block_bytes)
    return total


def _activations(facts: ModelFacts, tensor: int) -> int:
    """Return the elements that one token holds at the widest point of a layer."""
    query, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    attention = 2 * (query + 2 * kv) + 2 * query
    mlp = 4 * facts.intermediate
    if facts.experts:
        mlp += 3 * facts.hidden + 4 * facts.experts + 8 * facts.experts_per_token
    return 6 * facts.hidden + -(-max(attention, mlp) // tensor)
