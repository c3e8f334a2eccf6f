"""The whole step against the torch decoder on small random models, one feature after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from slipway_engine.loading.weights import load as load_torch
from slipway_engine.models import context
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.config import ExpertsConfig, RopeConfig
from slipway_engine.models.kv_cache import row_elements
from slipway_engine.models.linear import plain
from slipway_engine.models.quantised import Quantised
from slipway_engine.native import library, weights
from slipway_engine.native.library import Array, Format, Kv, Pool
from slipway_engine.native.runner import NativeModel

BLOCKS = 40
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tied_embeddings": False},
    "qkv bias": {"qkv_bias": True},
    "all biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qk norm": {"qk_norm": True},
    "sliding window": {"windows": (20, None, 150)},
    "narrow window": {"windows": (1, 3, 16)},
    "one key head": {"num_kv_heads": 1},
    "no sharing": {"num_kv_heads": 6},
    "odd head size": {"head_dim": 20},
    "large head": {"head_dim": 128, "num_heads": 2, "num_kv_heads": 1},
    "odd widths": {"hidden_size": 72, "intermediate_size": 88, "vocab_size": 67},
    "llama3 rope": {"rope": RopeConfig(500000.0, "llama3", 8.0, 1.0, 4.0, 256)},
    "linear rope": {"rope": RopeConfig(factor=4.0, kind="linear")},
    "one layer": {"num_layers": 1},
    "gated by GELU": {"activation": "gelu_tanh"},
    "norms before and after": {"norms": "both"},
    "norms after": {"norms": "post", "qk_norm_wide": True},
    "norm offset": {"norm_offset": 1.0, "qk_norm": True},
    "wide norms of odd heads": {"qk_norm_wide": True, "head_dim": 20},
    "scales": {
        "embedding_scale": 12.0,
        "residual_scale": 0.22,
        "logits_scale": 0.125,
        "attention_scale": 0.1,
        "norms": "both",
    },
    "soft caps": {"attention_softcap": 5.0, "logits_softcap": 3.0, "windows": (None, 40, None)},
    "local rope": {
        "windows": (20, None, 150),
        "local_rope": RopeConfig(theta=100.0),
        "rope": RopeConfig(1e6, "linear", 8.0),
    },
    "partial rope": {"rope": RopeConfig(fraction=0.5)},
    "partial rope of odd heads": {"rope": RopeConfig(fraction=0.4), "head_dim": 20},
    "yarn": {"rope": RopeConfig(kind="yarn", factor=4.0, original_max_position=64, magnitude=1.14)},
    "long rope": {
        "rope": RopeConfig(
            kind="longrope",
            factors=(1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7),
            long_factors=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
            original_max_position=128,
            magnitude=1.2,
        )
    },
    "experts": {"experts": ExpertsConfig(5, 2, normalised=True)},
    "experts, one a token": {"experts": ExpertsConfig(4, 1, normalised=False), "norms": "both"},
    "many experts": {"experts": ExpertsConfig(70, 6, normalised=True), "qk_norm": True, "num_layers": 2},
    "like Gemma 2": {
        "activation": "gelu_tanh",
        "norms": "both",
        "norm_offset": 1.0,
        "attention_scale": 0.2,
        "attention_softcap": 50.0,
        "logits_softcap": 30.0,
        "embedding_scale": 8.0,
        "windows": (24, None, 24),
    },
}


def reference(
    checkpoint: Any, tokens: Sequence[int], kv: torch.dtype = torch.float32, rounding: Quantised | None = None
) -> Array:
    """The torch decoder's logits for every token of one sequence."""
    config, cpu = checkpoint.config, torch.device("cpu")
    with torch.inference_mode():
        decoder = load_torch(checkpoint, plain, cpu, torch.float32, config.max_position, rounding=rounding)
        caches = [
            torch.zeros(BLOCKS, 16, row_elements(layer, kv), dtype=kv) for layer in config.attention_layers
        ]
        span = context.Span(0, len(tokens), list(range(1, BLOCKS)))
        step = context.build([span], 16, cpu, torch.float32)
        attend = PagedAttention(config, caches).bind(step)
        hidden = decoder.forward(decoder.embed(torch.tensor(tokens)), step.positions, attend)
        return decoder.logits(hidden).numpy()


def native(
    checkpoint: Any,
    pool: Pool,
    isa: str,
    *,
    inputs: int = 4,
    kv: Kv = Kv.FLOAT32,
    mode: weights.Mode = "none",
) -> NativeModel:
    packed = weights.load(checkpoint, pool, "int8" if inputs == 1 else mode)
    return NativeModel(
        packed, pool, isa, BLOCKS, input_bytes=inputs, kv=kv, max_positions=checkpoint.config.max_position
    )


def run(model: NativeModel, tokens: Sequence[int], chunks: Sequence[int]) -> Array:
    """Logits of every token, computed chunk by chunk; the blocks lie in disorder."""
    table = np.random.default_rng(0).permutation(np.arange(1, BLOCKS + 1)).astype(np.int32)
    found, start = [], 0
    for count in chunks:
        logits = np.empty((count, model.vocab_size), dtype=np.float32)
        model.step(
            np.array(tokens[start : start + count], dtype=np.int64),
            np.array([start], dtype=np.int64),
            np.array([0, count], dtype=np.int32),
            table,
            np.array([0, len(table)], dtype=np.int32),
            np.arange(count, dtype=np.int32),
            logits.ctypes.data,
        )
        found.append(logits)
        start += count
    assert start == len(tokens)
    return np.concatenate(found)


def tokens_of(count: int, vocab: int = 60) -> list[int]:
    return np.random.default_rng(count).integers(0, vocab, count).tolist()


@pytest.mark.parametrize("feature", FEATURES)
def test_logits_are_the_torch_decoders(
    checkpoint: Callable[..., Any], pool: Pool, isa: str, feature: str
) -> None:
    made = checkpoint(**FEATURES[feature])
    tokens = tokens_of(300)
    expected = reference(made, tokens)
    result = run(native(made, pool, isa), tokens, [1, 16, 1, 130, 1, 150, 1])
    assert np.abs(result - expected).max() < 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize("feature", FEATURES)
def test_cache_of_bytes_is_the_torch_decoders(
    checkpoint: Callable[..., Any], pool: Pool, isa: str, feature: str
) -> None:
    """Up to keys that lie on the edge between two numbers, and the bits that queries and weights have."""
    made = checkpoint(**FEATURES[feature])
    tokens = tokens_of(300)
    expected = reference(made, tokens, torch.int8)
    model = native(made, pool, isa, kv=Kv.INT8)
    error = np.abs(run(model, tokens, [1, 16, 1, 130, 1, 150, 1]) - expected) / np.abs(expected).max()
    coarse = np.abs(reference(made, tokens) - expected) / np.abs(expected).max()
    if made.config.experts is None:  # else another expert may be chosen
        assert error.max() < 2e-2
    assert error.mean() < 0.25 * coarse.mean()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_stored_types_keep_their_values(
    checkpoint: Callable[..., Any], pool: Pool, isa: str, kind: str
) -> None:
    made = checkpoint(kind, num_heads=8)
    tokens = tokens_of(40)
    expected = reference(made, tokens)
    result = run(native(made, pool, isa), tokens, [40])
    assert np.abs(result - expected).max() < 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_rounded_weights_are_the_torch_decoders(
    checkpoint: Callable[..., Any], pool: Pool, isa: str, mode: weights.Mode, kind: str
) -> None:
    """The torch decoder over what the packed integers mean; 4-bit blocks stay, a head has 8."""
    made = checkpoint(kind, num_heads=8, hidden_size=96)
    model = native(made, pool, isa, mode=mode)
    bits = 4 if kind == "Q4_0" or mode == "int4" else 8
    assert model.weights.layers[0].down.format.name.startswith(f"Q{bits}")
    assert model.weights.head.format.name.startswith("Q4" if kind == "Q4_0" else "Q8")
    tokens = tokens_of(40)
    expected = reference(made, tokens, rounding=Quantised(mode))
    result = run(model, tokens, [40])
    lost = np.abs(reference(made, tokens) - expected).mean()
    assert np.abs(result - expected).mean() < 0.05 * lost + 1e-5


def test_rows_that_blocks_do_not_divide_stay_floats(checkpoint: Callable[..., Any], pool: Pool) -> None:
    made = checkpoint(hidden_size=72)
    model = native(made, pool, "portable", mode="int4")
    layer = model.weights.layers[0]
    assert layer.qkv.format is Format.F32
    assert layer.down is not None
    assert layer.down.format is Format.Q4_1
    tokens = tokens_of(30)
    expected = reference(made, tokens, rounding=Quantised("int4"))
    lost = np.abs(reference(made, tokens) - expected).mean()
    assert np.abs(run(model, tokens, [30]) - expected).mean() < 0.05 * lost


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_whole_inputs_and_half_cache_are_near(
    checkpoint: Callable[..., Any], pool: Pool, isa: str, kind: str
) -> None:
    made = checkpoint(kind, num_heads=8, hidden_size=96)
    tokens = tokens_of(150)
    expected = torch.from_numpy(reference(made, tokens)).log_softmax(1)
    for inputs, kv, limit in (
        (4, Kv.FLOAT16, 1e-5),
        (2, Kv.FLOAT32, 1e-6),
        (2, Kv.FLOAT16, 1e-5),
        (4, Kv.INT8, 5e-3),
        (1, Kv.FLOAT16, 2e-2),
        (1, Kv.INT8, 2e-2),
    ):
        result = run(native(made, pool, isa, inputs=inputs, kv=kv), tokens, [150])
        found = torch.from_numpy(result).log_softmax(1)
        divergence = (expected.exp() * (expected - found)).sum(1).mean()
        assert abs(divergence) < limit, (inputs, kv)


@pytest.mark.parametrize(
    ("inputs", "kv", "kind", "experts"),
    [
        (4, Kv.FLOAT16, "Q4_1", None),
        (2, Kv.FLOAT16, "Q4_1", None),
        (2, Kv.FLOAT32, "Q8_0", None),
        (1, Kv.FLOAT16, "Q4_0", None),
        (1, Kv.FLOAT32, "F32", None),
        (4, Kv.FLOAT32, "BF16", None),
        (4, Kv.INT8, "F32", None),
        (2, Kv.INT8, "Q4_1", None),
        (1, Kv.INT8, "Q8_0", None),
        (4, Kv.FLOAT16, "BF16", ExpertsConfig(7, 3, normalised=True)),
        (1, Kv.INT8, "Q4_1", ExpertsConfig(7, 3, normalised=False)),
        (1, Kv.FLOAT16, "F32", ExpertsConfig(3, 3, normalised=False)),
    ],
)
def test_bits_do_not_depend_on_the_batch(
    checkpoint: Callable[..., Any],
    pool: Pool,
    isa: str,
    inputs: int,
    kv: Kv,
    kind: str,
    experts: ExpertsConfig | None,
) -> None:
    """Alone or beside others, in one chunk or token by token, on one thread or three: the same bits."""
    made = checkpoint(kind, num_heads=8, windows=(None, 40, None), experts=experts)
    draw = np.random.default_rng(7)
    sequences = [tokens_of(count) for count in (300, 33, 129, 1, 64)]
    alone = [run(native(made, library.Pool(1), isa, inputs=inputs, kv=kv), s, [len(s)]) for s in sequences]
    model = native(made, pool, isa, inputs=inputs, kv=kv)
    tables = draw.permutation(np.arange(1, 41)).astype(np.int32)
    needed = [-(-len(s) // 16) for s in sequences]
    table = np.zeros((len(sequences), max(needed)), dtype=np.int32)
    at = 0
    for row, used in zip(table, needed, strict=True):
        row[:used] = tables[at : at + used]
        at += used
    done = [0] * len(sequences)
    while any(d < len(s) for d, s in zip(done, sequences, strict=True)):
        live = [i for i, s in enumerate(sequences) if done[i] < len(s) and draw.random() < 0.8]
        counts = [min(int(draw.choice([1, 1, 2, 7, 50])), len(sequences[i]) - done[i]) for i in live]
        if not live:
            continue
        ids = [t for i, c in zip(live, counts, strict=True) for t in sequences[i][done[i] : done[i] + c]]
        wanted = np.flatnonzero(draw.random(len(ids)) < 0.7).astype(np.int32)
        logits = np.empty((len(wanted), model.vocab_size), dtype=np.float32)
        starts = np.cumsum([0, *counts], dtype=np.int32)
        model.step(
            np.array(ids, dtype=np.int64),
            np.array([done[i] for i in live], dtype=np.int64),
            starts,
            table[live].ravel(),
            np.arange(len(live) + 1, dtype=np.int32) * table.shape[1],
            wanted,
            logits.ctypes.data,
        )
        for row, index in enumerate(wanted):
            which = int(np.searchsorted(starts, index, side="right")) - 1
            position = done[live[which]] + int(index) - int(starts[which])
            assert np.array_equal(logits[row], alone[live[which]][position]), (live[which], position)
        for i, c in zip(live, counts, strict=True):
            done[i] += c


@pytest.mark.parametrize("outputs", [1, 2, 7])
@pytest.mark.parametrize("features", [{}, {"logits_scale": 0.0}, {"logits_softcap": 3.0}])
def test_largest_logits_are_found(
    checkpoint: Callable[..., Any], pool: Pool, isa: str, features: dict[str, Any], outputs: int
) -> None:
    """One row is cut among the threads; equal ones and no numbers count from the row's start."""
    model, tokens = native(checkpoint(**features), pool, isa), tokens_of(7)
    logits = np.empty((outputs, model.vocab_size), dtype=np.float32)
    values, places = np.empty(outputs, dtype=np.float32), np.empty(outputs, dtype=np.int64)
    for poisoned in (False, True):
        if poisoned:
            model.cache.data.view(np.float32)[:] = np.nan
        start = 16 if poisoned else 0
        model.step(
            np.array(tokens),
            np.array([start]),
            np.array([0, 7], dtype=np.int32),
            np.array([1, 2], dtype=np.int32),
            np.array([0, 2], dtype=np.int32),
            np.arange(7 - outputs, 7, dtype=np.int32),
            logits.ctypes.data,
            (values.ctypes.data, places.ctypes.data),
        )
        assert np.isnan(logits).all() == poisoned
        assert places.tolist() == logits.argmax(axis=1).tolist()
        assert np.array_equal(values, logits[np.arange(outputs), places], equal_nan=True)


@pytest.mark.parametrize("kv", Kv)
def test_stale_and_foreign_blocks_are_never_seen(
    checkpoint: Callable[..., Any], pool: Pool, isa: str, kv: Kv
) -> None:
    """Slots after a sequence's end, and blocks that are not its own, may hold anything, even NaN."""
    made = checkpoint(windows=(None, 20, None))
    tokens = tokens_of(45)
    clean = native(made, pool, isa, kv=kv)
    expected = run(clean, tokens, [40, 1, 4])
    dirty = native(made, pool, isa, kv=kv)
    dirty.cache.data.view(np.float32)[:] = np.nan
    assert np.array_equal(run(dirty, tokens, [40, 1, 4]), expected)


def test_wrong_steps_are_refused(checkpoint: Callable[..., Any], pool: Pool) -> None:
    model = native(checkpoint(), pool, "portable")
    logits = np.empty((1, model.vocab_size), dtype=np.float32)
    good: dict[str, Any] = {
        "token_ids": np.array([1, 2, 3]),
        "positions": np.array([0]),
        "starts": np.array([0, 3], dtype=np.int32),
        "blocks": np.array([1], dtype=np.int32),
        "tables": np.array([0, 1], dtype=np.int32),
        "outputs": np.array([2], dtype=np.int32),
        "logits": logits.ctypes.data,
    }
    model.step(**good)
    for wrong, sentence in (
        ({"token_ids": np.array([1, 2, 199])}, "outside the vocabulary"),
        ({"token_ids": np.array([1, -1, 3])}, "outside the vocabulary"),
        ({"positions": np.array([14])}, "lacks blocks that its layers see"),
        ({"tables": np.array([0, 0], dtype=np.int32)}, "has no block"),
        ({"tables": np.array([1, 1], dtype=np.int32)}, "begin with the blocks"),
        ({"positions": np.array([-1])}, "negative position"),
        ({"blocks": np.array([BLOCKS + 1], dtype=np.int32)}, "outside the cache"),
        ({"blocks": np.array([-1], dtype=np.int32)}, "outside the cache"),
        ({"starts": np.array([0, 2], dtype=np.int32)}, "do not cover"),
        ({"outputs": np.array([3], dtype=np.int32)}, "rows of outputs"),
    ):
        with pytest.raises(library.NativeError, match=sentence):
            model.step(**{**good, **wrong})
