"""Our unpacking against the reference of the `gguf` package, on random blocks of every supported type."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from slipway_engine.errors import ModelUnsupported
from slipway_engine.loading.dequant import SUPPORTED_TYPES, dequantise
from slipway_engine.loading.gguf import TENSOR_TYPES


@pytest.mark.parametrize("name", SUPPORTED_TYPES)
def test_equals_the_reference_on_random_blocks(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(7).integers(0, 256, size=(257, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        ours, reference = dequantise(blocks, name), gguf.quants.dequantize(blocks, kind)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.reshape(-1), reference.reshape(-1))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_undoes_the_reference_quantisation(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    values = np.random.default_rng(1).normal(size=(64, 256)).astype(np.float32)
    packed = gguf.quants.quantize(values, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    ours = dequantise(packed.reshape(-1, size), name).reshape(values.shape)
    assert np.abs(ours - values).max() < {"8": 0.03, "5": 0.3, "4": 0.6}[name[1]]
    assert block == 32


def test_names_a_type_it_does_not_read() -> None:
    with pytest.raises(ModelUnsupported, match="IQ1_S"):
        dequantise(np.zeros((1, 50), np.uint8), "IQ1_S")


def test_the_size_table_is_that_of_the_reference() -> None:
    known = {kind.value: kind for kind in gguf.GGMLQuantizationType}
    for number, ours in TENSOR_TYPES.items():
        assert (ours.block, ours.size) == gguf.GGML_QUANT_SIZES[known[number]], ours.name
        assert ours.name == known[number].name
