"""A reader of GGUF files that believes nothing a header says before it has compared it with the file's size.

The file is mapped, not read: opening one costs its header, and weights are touched tensor by tensor. Whatever
is wrong with a file ends in `ModelCorrupt` (it contradicts itself) or `ModelUnsupported` (we do not read it).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import NoReturn, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway_engine.errors import ModelAccessDenied, ModelCorrupt, ModelNotFound, ModelUnsupported

Value: TypeAlias = "bool | int | float | str | list[Value]"
Bytes: TypeAlias = npt.NDArray[np.uint8]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_STRING = 16 << 20
MAX_NAME = 1 << 16
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_ARRAY = 1 << 23
MAX_DIMS = 4
MAX_NESTING = 2

_SCALARS: dict[int, str] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor type packs its elements: `block` elements in `size` bytes."""

    name: str
    block: int
    size: int


TENSOR_TYPES: dict[int, TensorType] = {
    number: TensorType(name, block, size)
    for number, name, block, size in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (9, "Q8_1", 32, 40), (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136), (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8),
        (28, "F64", 1, 8), (29, "IQ1_M", 256, 56), (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66), (39, "MXFP4", 32, 17),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `shape` is row-major (the file's order reversed), `offset` is absolute."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    nbytes: int


class Whole(Protocol):
    """The bytes of a whole file, which may be brought only as they are touched."""

    def __len__(self) -> int:
        """Return the file's size."""

    def __getitem__(self, part: slice, /) -> memoryview:
        """Return some of its bytes."""


def read_header(path: Path, file: Whole) -> tuple[dict[str, Value], dict[str, TensorInfo]]:
    """Return the metadata and the tensor table of a GGUF file. Raises ModelCorrupt, ModelUnsupported."""
    return _Header(path, file).read()


class GGUFFile:
    """An opened GGUF file: metadata, tensor table, and the raw bytes of each tensor."""

    def __init__(
        self, path: Path, metadata: dict[str, Value], tensors: dict[str, TensorInfo], data: Bytes
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._data = data

    @classmethod
    def open(cls, path: Path | str) -> GGUFFile:
        """Map `path` and read its header."""
        path = Path(path)
        data = _map(path)
        metadata, tensors = read_header(path, data.data)
        return cls(path, metadata, tensors, data)

    def raw(self, name: str) -> Bytes:
        """Return a read-only view of the bytes of one tensor."""
        info = self.tensors[name]
        return self._data[info.offset : info.offset + info.nbytes]


def _map(path: Path) -> Bytes:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelNotFound(f"{path} is a directory; give the path of a GGUF file in it.")
        if size < len(MAGIC) + 20:
            raise ModelCorrupt(f"{path} holds {size} bytes, too few for a GGUF header; fetch the file again.")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} does not exist; give the path of a GGUF file.") from error
    except PermissionError as error:
        raise ModelAccessDenied(f"{path} may not be read by this user; change its permissions.") from error
    except OSError as error:
        raise ModelCorrupt(f"{path} cannot be mapped: {error.strerror or error}.") from error


class _Header:
    """A cursor over the header; every read is checked against the file's end first."""

    def __init__(self, path: Path, view: Whole) -> None:
        self.path = path
        self.view = view
        self.size = len(self.view)
        self.at = 0

    def read(self) -> tuple[dict[str, Value], dict[str, TensorInfo]]:
        tensor_count, key_count = self._preamble()
        metadata = self._metadata(key_count)
        self._refuse_split(metadata)
        alignment = self._alignment(metadata)
        return metadata, self._tensors(tensor_count, alignment)

    def corrupt(self, why: str) -> NoReturn:
        raise ModelCorrupt(f"{self.path} is no valid GGUF file: {why}; fetch the file again.")

    def take(self, count: int, what: str) -> memoryview:
        end = self.at + count
        if end > self.size:
            self.corrupt(f"{what} at byte {self.at} needs {count} bytes, {self.size - self.at} are left")
        taken = self.view[self.at : end]
        self.at = end
        return taken

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, most: int, least_size: int) -> int:
        """Read a count that both our bound and the bytes left must allow."""
        count = self.u64(what)
        if count > most:
            self.corrupt(f"{what} is {count}, more than {most}")
        if count * least_size > self.size - self.at:
            self.corrupt(f"{what} is {count}, more than the {self.size - self.at} bytes left can hold")
        return count

    def string(self, what: str, most: int = MAX_STRING) -> str:
        raw = self.take(self.count(f"the length of {what}", most, 1), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            self.corrupt(f"{what} is not UTF-8")

    def _preamble(self) -> tuple[int, int]:
        magic = bytes(self.take(4, "the magic"))
        if magic != MAGIC:
            self.corrupt(f"it starts with {magic!r} instead of {MAGIC!r}")
        version = self.u32("the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            if swapped in VERSIONS:
                raise ModelUnsupported(f"{self.path} is a big-endian GGUF file; convert it to little-endian.")
            raise ModelUnsupported(f"{self.path} is GGUF version {version}; convert it to version 3.")
        tensors = self.count("the number of tensors", MAX_TENSORS, 24)
        return tensors, self.count("the number of keys", MAX_KEYS, 13)

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for index in range(count):
            key = self.string(f"key {index}", MAX_NAME)
            if key in metadata:
                self.corrupt(f"the key {key!r} appears twice")
            metadata[key] = self._value(self.u32(f"the type of {key!r}"), f"the value of {key!r}", 0)
        return metadata

    def _value(self, kind: int, what: str, depth: int) -> Value:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what, depth + 1)
        if kind == _BOOL:
            return self._booleans(1, what)[0]
        return self._numbers(kind, 1, what)[0]

    def _array(self, what: str, depth: int) -> list[Value]:
        if depth > MAX_NESTING:
            self.corrupt(f"{what} nests arrays more than {MAX_NESTING} deep")
        kind = self.u32(f"the element type of {what}")
        if kind in (_STRING, _ARRAY):
            count = self.count(f"the length of {what}", MAX_ARRAY, 8)
            return [self._value(kind, what, depth) for _ in range(count)]
        count = self.count(f"the length of {what}", MAX_ARRAY, 1)
        return list(self._booleans(count, what) if kind == _BOOL else self._numbers(kind, count, what))

    def _booleans(self, count: int, what: str) -> list[bool]:
        raw = bytes(self.take(count, what))
        if raw.strip(b"\0\1"):
            self.corrupt(f"{what} holds a boolean that is neither 0 nor 1")
        return [byte == 1 for byte in raw]

    def _numbers(self, kind: int, count: int, what: str) -> list[int | float]:
        if kind not in _SCALARS:
            self.corrupt(f"{what} has the unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        numbers: list[int | float] = np.frombuffer(
            self.take(count * dtype.itemsize, what), dtype=dtype
        ).tolist()
        return numbers

    def _refuse_split(self, metadata: dict[str, Value]) -> None:
        if metadata.get("split.count", 1) not in (0, 1):
            raise ModelUnsupported(
                f"{self.path} is one part of a split model; join the parts with `llama-gguf-split --merge`."
            )

    def _alignment(self, metadata: dict[str, Value]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or not 8 <= alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            self.corrupt(f"general.alignment is {alignment!r}, no power of two between 8 and {MAX_ALIGNMENT}")
        return alignment

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        found = [self._tensor(alignment) for _ in range(count)]
        base = -(-self.at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset, nbytes in found:
            if name in tensors:
                self.corrupt(f"the tensor {name!r} appears twice")
            tensors[name] = TensorInfo(name, shape, kind, base + offset, nbytes)
        self._check_extents(tensors)
        return tensors

    def _tensor(self, alignment: int) -> tuple[str, tuple[int, ...], TensorType, int, int]:
        name = self.string("a tensor's name", MAX_NAME)
        dims = self.u32(f"the dimensions of {name!r}")
        if not 1 <= dims <= MAX_DIMS:
            self.corrupt(f"the tensor {name!r} has {dims} dimensions instead of 1 to {MAX_DIMS}")
        sides = struct.unpack(f"<{dims}Q", self.take(8 * dims, f"the shape of {name!r}"))
        number, offset = self.u32(f"the type of {name!r}"), self.u64(f"the offset of {name!r}")
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            raise ModelUnsupported(f"{self.path}: the tensor {name!r} has the unknown type {number}.")
        if min(sides) < 1 or sides[0] % kind.block:
            self.corrupt(f"the tensor {name!r} has the shape {list(sides)}, which {kind.name} cannot pack")
        if offset % alignment:
            self.corrupt(f"the tensor {name!r} starts at {offset}, no multiple of {alignment}")
        return name, tuple(reversed(sides)), kind, offset, prod(sides) // kind.block * kind.size

    def _check_extents(self, tensors: dict[str, TensorInfo]) -> None:
        """Refuse tensors that pass the file's end or share bytes."""
        end, before = 0, ""
        for tensor in sorted(tensors.values(), key=attrgetter("offset")):
            if tensor.offset + tensor.nbytes > self.size:
                self.corrupt(
                    f"the tensor {tensor.name!r} ends at byte {tensor.offset + tensor.nbytes}, "
                    f"the file at {self.size}"
                )
            if tensor.offset < end:
                self.corrupt(f"the tensors {before!r} and {tensor.name!r} overlap")
            end, before = tensor.offset + tensor.nbytes, tensor.name
