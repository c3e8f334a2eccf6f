"""Reading GGUF: what the reference writer writes, and hundreds of files that are broken in every way."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from slipway_engine.errors import EngineError, ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.loading.gguf import GGUFFile


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small ✓")
    writer.add_block_count(1)
    writer.add_float32("test.float", 0.5)
    writer.add_bool("test.yes", True)
    writer.add_int64("test.negative", -5)
    writer.add_array("test.strings", ["a", "", "ß"])
    writer.add_array("test.numbers", [1, 2, 3])
    writer.add_tensor("ones", np.ones((3, 5), np.float32))
    writer.add_tensor("twos", np.full((2, 32), 2, np.float16))
    packed = gguf.quants.quantize(
        np.arange(64, dtype=np.float32).reshape(2, 32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_metadata_and_tensor_table(small: Path) -> None:
    file = GGUFFile.open(small)
    assert file.metadata["general.name"] == "small ✓"
    assert file.metadata["llama.block_count"] == 1
    assert file.metadata["test.float"] == 0.5
    assert file.metadata["test.yes"] is True
    assert file.metadata["test.negative"] == -5
    assert file.metadata["test.strings"] == ["a", "", "ß"]
    assert file.metadata["test.numbers"] == [1, 2, 3]
    assert {name: (info.shape, info.type.name) for name, info in file.tensors.items()} == {
        "ones": ((3, 5), "F32"), "twos": ((2, 32), "F16"), "packed": ((2, 32), "Q8_0"),
    }  # fmt: skip
    np.testing.assert_array_equal(file.raw("ones").view("<f4"), np.ones(15, np.float32))


def test_equals_the_reference_reader_on_a_real_file(smollm2: Path) -> None:
    ours, reference = GGUFFile.open(smollm2), gguf.GGUFReader(smollm2)
    assert {name: (info.offset, info.nbytes) for name, info in ours.tensors.items()} == {
        tensor.name: (tensor.data_offset, int(tensor.n_bytes)) for tensor in reference.tensors
    }
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.chat_template"):
        assert ours.metadata[key] == reference.fields[key].contents()


def header(tensors: int = 0, keys: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def tensor(name: str = "t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        + struct.pack("<IQ", kind, offset)
    )  # fmt: skip


PAD = bytes(512)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too few"),
    "not a GGUF file": (header(magic=b"PK\3\4"), "starts with"),
    "a tensor count past the file": (header(tensors=1 << 19), "more than the"),
    "an absurd tensor count": (header(tensors=1 << 60), "more than"),
    "an absurd key count": (header(keys=1 << 63), "more than"),
    "a string past the file": (header(keys=1) + struct.pack("<Q", 1 << 62) + PAD, "more than"),
    "an array past the file": (header(keys=1) + text("k") + struct.pack("<IIQ", 9, 10, 1 << 22), "bytes"),
    "an absurd array": (header(keys=1) + text("k") + struct.pack("<IIQ", 9, 0, 1 << 40), "more than"),
    "nested arrays": (
        header(keys=1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + PAD, "nests",
    ),
    "an unknown value type": (header(keys=1) + text("k") + struct.pack("<I", 77) + PAD, "unknown type 77"),
    "a boolean of 2": (header(keys=1) + text("k") + struct.pack("<IB", 7, 2) + PAD, "boolean"),
    "text that is no UTF-8": (header(keys=1) + text(b"\xff\xfe") + struct.pack("<IB", 0, 2) + PAD, "UTF-8"),
    "a key twice": (header(keys=2) + (text("k") + struct.pack("<IB", 0, 2)) * 2 + PAD, "twice"),
    "an alignment of 24": (
        header(keys=1) + text("general.alignment") + struct.pack("<II", 4, 24) + PAD, "power of two",
    ),
    "a tensor twice": (header(tensors=2) + tensor() + tensor(offset=128) + PAD, "twice"),
    "no dimensions": (header(tensors=1) + tensor(dims=()) + PAD, "dimensions"),
    "nine dimensions": (header(tensors=1) + tensor(dims=(1,) * 9) + PAD, "dimensions"),
    "a side of zero": (header(tensors=1) + tensor(dims=(0, 4)) + PAD, "shape"),
    "a row that blocks do not divide": (header(tensors=1) + tensor(dims=(33,), kind=8) + PAD, "shape"),
    "a tensor past the end": (header(tensors=1) + tensor(dims=(4096,)) + PAD, "ends at"),
    "a size that overflows": (header(tensors=1) + tensor(dims=(1 << 40,) * 4) + PAD, "ends at"),
    "an offset past the end": (header(tensors=1) + tensor(offset=1 << 62) + PAD, "ends at"),
    "an offset that is not aligned": (header(tensors=1) + tensor(offset=7) + PAD, "multiple"),
    "tensors that overlap": (header(tensors=2) + tensor("a") + tensor("b", offset=64) + PAD, "overlap"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_names_the_file_and_what_is_wrong_with_it(case: str, tmp_path: Path) -> None:
    content, why = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelCorrupt) as refused:
        GGUFFile.open(path)
    assert str(path) in str(refused.value)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header(version=1) + PAD, "version 1"),
        (header(version=3 << 24) + PAD, "big-endian"),
        (header(tensors=1) + tensor(kind=200) + PAD, "unknown type 200"),
        (header(keys=1) + text("split.count") + struct.pack("<IH", 2, 3) + PAD, "merge"),
    ],
)
def test_names_what_it_does_not_read(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelUnsupported, match=why):
        GGUFFile.open(path)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        GGUFFile.open(tmp_path / "none.gguf")
    with pytest.raises(ModelNotFound):
        GGUFFile.open(tmp_path)


def _header_end(path: Path) -> int:
    return min(info.offset for info in GGUFFile.open(path).tensors.values())


def _survives(path: Path, read: Callable[[Path], object]) -> bool:
    """Read a mutated file: it may still be fine; any error must be one of ours, and name the file."""
    message = None
    try:
        read(path)
    except (ModelCorrupt, ModelUnsupported) as error:
        message = str(error)
    assert message is None or path.name in message
    return message is None


def _read_all(path: Path) -> None:
    file = GGUFFile.open(path)
    for name in file.tensors:
        file.raw(name).sum()


def test_mutations_of_a_header_end_in_a_named_error(small: Path, tmp_path: Path) -> None:
    whole, end = small.read_bytes(), _header_end(small)
    rng, path, refused = random.Random(0), tmp_path / "mutated.gguf", 0
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            content[rng.randrange(end)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(content)
        refused += not _survives(path, _read_all)
    assert refused > 200


def test_every_truncation_of_a_header_ends_in_a_named_error(small: Path, tmp_path: Path) -> None:
    whole, end = small.read_bytes(), _header_end(small)
    path = tmp_path / "truncated.gguf"
    last = max(info.offset + info.nbytes for info in GGUFFile.open(small).tensors.values())
    for size in [*range(end), last - 1]:
        path.write_bytes(whole[:size])
        assert not _survives(path, _read_all), size


def test_mutations_of_a_real_configuration_end_in_a_named_error(smollm2: Path, tmp_path: Path) -> None:
    """A real file's model keys and tensor table, its vocabulary left out, mutated under the loader."""
    path = tmp_path / "model.gguf"
    _tiny_llama(path)
    whole, end = path.read_bytes(), _header_end(path)
    open_checkpoint(path)
    rng, refused = random.Random(1), 0
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 2, 4])):
            content[rng.randrange(24, end)] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(content)
        refused += not _survives(path, open_checkpoint)
    assert refused > 200


def _tiny_llama(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(12)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_eos_token_id(2)
    shapes = {
        "token_embd": (11, 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,),
        "blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8), "blk.0.attn_v": (4, 8), "blk.0.attn_output": (8, 8),
        "blk.0.ffn_gate": (12, 8), "blk.0.ffn_up": (12, 8), "blk.0.ffn_down": (8, 12),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_all_errors_are_engine_errors() -> None:
    assert issubclass(ModelCorrupt, EngineError)
    assert issubclass(ModelUnsupported, EngineError)
