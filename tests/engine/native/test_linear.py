"""Every matrix format on every instruction set of this processor, against float64, at odd shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from slipway_engine.native import library
from slipway_engine.native.library import Array, Format, Matrix, Pool, Rows

Stored = Callable[[str, Array], tuple[Array, Array]]

FLOATS, BLOCKS = ("F32", "F16", "BF16"), ("Q8_0", "Q4_0", "Q4_1")
SHAPES = ((1, 32), (31, 64), (33, 96), (100, 288), (577, 576))
BATCHES = (1, 2, 3, 4, 5, 11, 13, 40, 300)
FLOAT_ERROR = 3e-6
INT8_ERROR = 2e-2  # of a product of random numbers: activations have 7 bits and a sign
INT16_ERROR = 8e-5


def packed(pool: Pool, stored: Stored, kind: str, shape: tuple[int, int]) -> tuple[Matrix, Array]:
    weight = np.random.default_rng(hash(shape) % 1000).standard_normal(shape, dtype=np.float32)
    data, values = stored(kind, weight)
    return Matrix(pool, [Rows(Format[kind], *shape, data)]), values


def error(result: Array, inputs: Array, values: Array) -> float:
    expected = inputs.astype(np.float64) @ values.T.astype(np.float64)
    scale = np.linalg.norm(inputs, axis=1)[:, None] * np.linalg.norm(values, axis=1)[None] + 1e-9
    return float((np.abs(result - expected) / scale).max())


@pytest.mark.parametrize("kind", FLOATS + BLOCKS)
def test_product_with_float_inputs_is_exact_to_float32(
    pool: Pool, stored: Stored, isa: str, kind: str
) -> None:
    for shape in SHAPES:
        matrix, values = packed(pool, stored, kind, shape)
        for count in BATCHES:
            inputs = np.random.default_rng(count).standard_normal((count, shape[1]), dtype=np.float32)
            assert error(matrix.apply(pool, isa, inputs), inputs, values) < FLOAT_ERROR, (shape, count)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(("input_bytes", "limit"), [(1, INT8_ERROR), (2, INT16_ERROR)])
def test_product_with_whole_inputs_is_near(
    pool: Pool, stored: Stored, isa: str, kind: str, input_bytes: int, limit: float
) -> None:
    for shape in SHAPES:
        matrix, values = packed(pool, stored, kind, shape)
        for count in BATCHES:
            inputs = np.random.default_rng(count).standard_normal((count, shape[1]), dtype=np.float32)
            assert error(matrix.apply(pool, isa, inputs, input_bytes), inputs, values) < limit


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(("input_bytes", "most"), [(1, 127), (2, 32512)])
def test_whole_inputs_multiply_exactly(
    pool: Pool, stored: Stored, isa: str, kind: str, input_bytes: int, most: int
) -> None:
    """Whole numbers in range stay what they are, so nothing is lost but float32's rounding of the sums."""
    for shape in SHAPES:
        matrix, values = packed(pool, stored, kind, shape)
        inputs = np.random.default_rng(0).integers(-most, most + 1, (7, shape[1])).astype(np.float32)
        inputs.reshape(-1, 32)[:, 5] = most
        assert error(matrix.apply(pool, isa, inputs, input_bytes), inputs, values) < FLOAT_ERROR


@pytest.mark.parametrize("kind", BLOCKS)
def test_extreme_blocks_do_not_saturate(pool: Pool, isa: str, kind: str) -> None:
    """The largest products of one sign: 16-bit sums of pairs would overflow without the right arithmetic."""
    for fill in (0x00, 0x7F, 0x80, 0xFF):
        blocks = np.full((64, {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind] * 3), fill, dtype=np.uint8)
        view = blocks.reshape(64, 3, -1)
        view[..., :2] = np.frombuffer(np.float16(1.0).tobytes(), np.uint8)
        if kind == "Q4_1":
            view[..., 2:4] = np.frombuffer(np.float16(-3.0).tobytes(), np.uint8)
        matrix = Matrix(pool, [Rows(Format[kind], 64, 96, blocks)])
        nibbles = ((fill & 15) + (fill >> 4)) / 2 - (8 if kind == "Q4_0" else 3)
        step = float(np.uint8(fill).view(np.int8)) if kind == "Q8_0" else nibbles
        for sign in (1, -1):
            for input_bytes, most in ((1, 127), (2, 32512)):
                inputs = np.full((9, 96), most * sign, dtype=np.float32)
                result = matrix.apply(pool, isa, inputs, input_bytes)
                assert (result == 96.0 * most * sign * step).all(), (fill, sign)


@pytest.mark.parametrize(
    ("kind", "input_bytes"),
    [*((kind, 4) for kind in FLOATS + BLOCKS), *((kind, size) for kind in BLOCKS for size in (1, 2))],
)
def test_row_does_not_depend_on_the_batch(
    pool: Pool, stored: Stored, isa: str, kind: str, input_bytes: int
) -> None:
    matrix, _ = packed(pool, stored, kind, (100, 288))
    inputs = np.random.default_rng(1).standard_normal((300, 288), dtype=np.float32)
    whole = matrix.apply(pool, isa, inputs, input_bytes)
    for count in BATCHES:
        for start in (0, 300 - count):
            part = matrix.apply(pool, isa, inputs[start : start + count], input_bytes)
            assert np.array_equal(part, whole[start : start + count]), (count, start)


def test_instruction_sets_agree_on_integers(pool: Pool, stored: Stored) -> None:
    """AVX2's sign trick, VNNI and the portable loop sum the same integers."""
    inputs = np.random.default_rng(2).standard_normal((5, 288), dtype=np.float32)
    fused = [name for name in library.instruction_sets() if name != "portable"]
    for kind in BLOCKS:
        matrix, _ = packed(pool, stored, kind, (100, 288))
        for input_bytes in (1, 2):
            results = [matrix.apply(pool, name, inputs, input_bytes) for name in fused]
            assert all(np.array_equal(result, results[0]) for result in results), kind


def test_floats_pack_as_bytes(pool: Pool, isa: str, stored: Stored) -> None:
    weight = np.random.default_rng(3).standard_normal((77, 128), dtype=np.float32)
    inputs = np.random.default_rng(4).standard_normal((6, 128), dtype=np.float32)
    for kind in FLOATS:
        data, values = stored(kind, weight)
        matrix = Matrix(pool, [Rows(Format[kind], 77, 128, data)], Format.Q8_0)
        assert error(matrix.apply(pool, isa, inputs), inputs, values) < INT8_ERROR / 2
        assert error(matrix.apply(pool, isa, inputs, input_bytes=1), inputs, values) < INT8_ERROR


def test_floats_pack_as_nibbles(pool: Pool, stored: Stored) -> None:
    """Nearer to the values than rounding between the extremes, which it tries first; constants are kept."""
    draw = np.random.default_rng(6)
    weight = draw.standard_normal((65, 128), dtype=np.float32) ** 3
    weight[3] = 0.25
    weight[4] = 0
    weight[5, :32] = np.float32(3e-8)
    unit = np.eye(128, dtype=np.float32)
    plain = stored("Q4_1", weight)[1]
    for kind in FLOATS:
        data, values = stored(kind, weight)
        matrix = Matrix(pool, [Rows(Format[kind], 65, 128, data)], Format.Q4_1)
        found = matrix.apply(pool, "portable", unit).T
        ours, theirs = (np.square(x - values).reshape(-1, 32).sum(1) for x in (found, plain))
        assert ours.sum() < 0.9 * theirs.sum()
        assert (ours < 1.05 * theirs + 1e-6).all()
        assert (found[3] == 0.25).all()
        assert (found[4] == 0).all()


def test_parts_lie_one_below_the_other(pool: Pool, isa: str) -> None:
    draw = np.random.default_rng(5)
    parts = [draw.standard_normal((rows, 48), dtype=np.float32) for rows in (40, 7, 19)]
    inputs = draw.standard_normal((3, 48), dtype=np.float32)
    matrix = Matrix(pool, [Rows.of_floats(part) for part in parts])
    assert error(matrix.apply(pool, isa, inputs), inputs, np.concatenate(parts)) < FLOAT_ERROR


def test_zeros_and_tiny_rows_stay_finite(pool: Pool, stored: Stored, isa: str) -> None:
    matrix, _ = packed(pool, stored, "Q4_1", (33, 96))
    inputs = np.zeros((3, 96), dtype=np.float32)
    inputs[1] = 1e-42
    inputs[2] = 1e-30
    result = matrix.apply(pool, isa, inputs, input_bytes=1)
    assert np.isfinite(result).all()
    assert (result[0] == 0).all()


def test_unpackable_sources_are_refused(pool: Pool) -> None:
    odd = np.zeros((4, 40), dtype=np.float32)
    with pytest.raises(library.NativeError, match="32 divides"):
        Matrix(pool, [Rows.of_floats(odd)], Format.Q8_0)
    with pytest.raises(library.NativeError, match="differ in format"):
        Matrix(pool, [Rows.of_floats(odd), Rows.of_floats(odd.astype(np.float16))])
