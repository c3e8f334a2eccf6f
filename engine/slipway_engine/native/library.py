"""The native library through ctypes: finding it, its structures, and memory that Python keeps for it.

Calls release the interpreter's lock. A wrapper object owns what it points to and frees it when it goes.
"""

from __future__ import annotations

import ctypes as c
import functools
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway_engine.errors import EngineError, InvalidArgument
from slipway_engine.native import build

ABI = 8
PANEL = 32
LANES = 16
BLOCK = 16

Array = npt.NDArray[Any]


class Format(IntEnum):
    """How a matrix holds its values; the numbers are the library's."""

    F32 = 0
    F16 = 1
    BF16 = 2
    Q8_0 = 3
    Q4_0 = 4
    Q4_1 = 5

    @property
    def quantised(self) -> bool:
        """True for blocks of 32 that share a scale."""
        return self >= Format.Q8_0

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row as a checkpoint holds it."""
        if not self.quantised:
            return width * (4 if self is Format.F32 else 2)
        return width // 32 * {Format.Q8_0: 34, Format.Q4_0: 18, Format.Q4_1: 20}[self]


class Kv(IntEnum):
    """How the cache holds keys and values; the numbers are the library's."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT8 = 2


class Source(c.Structure):
    """Rows of a weight as the checkpoint holds them."""

    _fields_ = [("format", c.c_int32), ("rows", c.c_int64), ("data", c.c_void_p)]


class ModelConfig(c.Structure):
    """The decoder's numbers."""

    _fields_ = [
        *((name, c.c_int32) for name in ("hidden", "intermediate", "vocab", "layers", "heads", "kv_heads")),
        *((name, c.c_int32) for name in ("head_dim", "gelu", "input_bytes", "kv", "turned")),
        *((name, c.c_int32) for name in ("experts", "experts_per_token", "experts_normalised", "wide_norms")),
        *((name, c.c_float) for name in ("norm_eps", "attention_scale", "embedding_scale", "residual_scale")),
        *((name, c.c_float) for name in ("logits_scale", "attention_softcap", "logits_softcap")),
        *((name, c.c_float) for name in ("rope_scale", "local_rope_scale")),
    ]


class LayerWeights(c.Structure):
    """One layer: matrices that stay ours, vectors that the library copies."""

    _fields_ = [
        *((name, c.c_void_p) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c.c_void_p) for name in ("qkv_bias", "out_bias", "gate_bias", "up_bias", "down_bias")),
        *((name, c.c_void_p) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, c.c_void_p) for name in ("attention_post_norm", "mlp_post_norm")),
        *((name, c.c_void_p) for name in ("router", "expert_gate_up", "expert_down")),
        ("window", c.c_int64),
        ("group", c.c_int32),
        ("place", c.c_int32),
    ]


class Step(c.Structure):
    """One step's batch; see slipway.h."""

    _fields_ = [
        *((name, c.c_int32) for name in ("tokens", "sequences", "outputs")),
        *(
            (name, c.c_void_p)
            for name in ("token_ids", "positions", "starts", "blocks", "tables", "output_rows", "logits")
        ),
        ("largest", c.c_void_p),
        ("places", c.c_void_p),
        ("keys", c.c_void_p),
        ("values", c.c_void_p),
        *((name, c.c_int64) for name in ("num_blocks", "layer_bytes", "block_bytes", "head_bytes")),
    ]


class Draw(c.Structure):
    """How a row's next token is drawn; see slipway.h."""

    _fields_ = [
        ("row", c.c_int64),
        ("likeliest", c.c_int64),
        *((name, c.c_float) for name in ("temperature", "min_p", "top_p")),
        ("top_k", c.c_int32),
        ("stream", c.c_uint64),
        ("position", c.c_int64),
    ]


class NativeError(EngineError):
    """The native library refused a call."""


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "slipway_abi": (c.c_int32, []),
    "slipway_error": (c.c_char_p, []),
    "slipway_instruction_sets": (c.c_char_p, []),
    "slipway_pool_create": (c.c_void_p, [c.c_int32]),
    "slipway_pool_destroy": (None, [c.c_void_p]),
    "slipway_pack": (
        c.c_void_p,
        [c.c_void_p, c.POINTER(Source), c.c_int32, c.c_int64, c.c_int32, c.c_int32],
    ),
    "slipway_matrix_bytes": (c.c_int64, [c.c_void_p]),
    "slipway_matrix_destroy": (None, [c.c_void_p]),
    "slipway_linear": (
        c.c_int32,
        [c.c_void_p, c.c_char_p, c.c_void_p, c.c_void_p, c.c_int64, c.c_int32, c.c_void_p],
    ),
    "slipway_model_create": (
        c.c_void_p,
        [c.c_void_p, c.c_char_p, c.POINTER(ModelConfig), c.POINTER(LayerWeights), *[c.c_void_p] * 5],
    ),
    "slipway_model_destroy": (None, [c.c_void_p]),
    "slipway_model_step": (c.c_int32, [c.c_void_p, c.POINTER(Step)]),
    "slipway_model_times": (None, [c.c_void_p, c.c_void_p]),
    "slipway_context_bytes": (c.c_int64, [c.POINTER(ModelConfig), c.c_int32]),
    "slipway_kv_head_bytes": (c.c_int64, [c.POINTER(ModelConfig)]),
    "slipway_workspace_bytes": (c.c_int64, [c.POINTER(ModelConfig), c.c_int32, c.c_int64]),
    "slipway_sample": (
        c.c_int32,
        [c.c_void_p, c.c_char_p, c.c_void_p, c.c_int64, c.c_int64, c.POINTER(Draw), c.c_int32, c.c_void_p],
    ),
    "slipway_measure_flops": (c.c_double, [c.c_void_p, c.c_char_p]),
    "slipway_measure_integers": (c.c_double, [c.c_void_p, c.c_char_p]),
    "slipway_measure_reads": (c.c_double, [c.c_void_p, c.c_char_p, c.c_void_p, c.c_int64]),
}


def library_path() -> Path | None:
    """Return the library that these sources make, where somebody has made it."""
    named = os.environ.get("SLIPWAY_NATIVE_LIBRARY")
    if named:
        return Path(named)
    candidates = [place / build.library_name() for place in (build.PACKAGED, build.cache_directory())]
    return next((path for path in candidates if path.exists()), None)


def available() -> bool:
    """Say whether `load` would succeed, as far as a file's existence tells."""
    return library_path() is not None


@functools.cache
def load() -> c.CDLL:
    """Load the library; raises `NativeError` with the way to get it."""
    path = library_path()
    if path is None:
        raise NativeError(
            "The native CPU library is not built; run python -m slipway_engine.native.build, "
            "or serve with --cpu-backend torch."
        )
    try:
        library = c.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NativeError(f"{path} cannot be loaded: {error}; build it again.") from error
    if library.slipway_abi() != ABI:
        raise NativeError(f"{path} has the ABI {library.slipway_abi()}, not {ABI}; build it again.")
    return library


def instruction_sets() -> list[str]:
    """Return the instruction sets that this processor runs, best first."""
    names: bytes = load().slipway_instruction_sets()
    return names.decode().split()


def choose_instruction_set() -> str:
    """Return the best one, or the one that SLIPWAY_CPU_ISA forces."""
    found, forced = instruction_sets(), os.environ.get("SLIPWAY_CPU_ISA")
    if forced and forced not in found:
        raise InvalidArgument(f"SLIPWAY_CPU_ISA is {forced!r}; this processor runs {', '.join(found)}.")
    return forced or found[0]


def error() -> NativeError:
    """Return the last call's error."""
    sentence: bytes = load().slipway_error()
    return NativeError(sentence.decode())


class Pool:
    """A team of compute threads; the caller's is one of them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.handle: int = load().slipway_pool_create(threads) or 0
        if not self.handle:
            raise error()
        self._free = weakref.finalize(self, load().slipway_pool_destroy, self.handle)

    def measure_flops(self, isa: str) -> float:
        """Return the f32 operations a second of all threads (a multiply-add is two)."""
        return float(load().slipway_measure_flops(self.handle, isa.encode()))

    def measure_integers(self, isa: str) -> float:
        """Return the 8-bit integer operations a second of all threads."""
        return float(load().slipway_measure_integers(self.handle, isa.encode()))

    def measure_reads(self, isa: str, data: Array) -> float:
        """Return the bytes a second at which all threads read `data`."""
        return float(load().slipway_measure_reads(self.handle, isa.encode(), data.ctypes.data, data.nbytes))


@dataclass(frozen=True, slots=True)
class Rows:
    """A weight [rows, width] as the checkpoint holds it: `data` are its bytes, row by row."""

    format: Format
    rows: int
    width: int
    data: Array

    def __post_init__(self) -> None:
        assert self.data.flags.c_contiguous
        assert self.data.nbytes == self.rows * self.format.row_bytes(self.width)

    @classmethod
    def of_floats(cls, weight: Array) -> Rows:
        """Return float32 or float16 numbers as rows."""
        kind = {np.dtype(np.float32): Format.F32, np.dtype(np.float16): Format.F16}[weight.dtype]
        rows, width = weight.shape
        return cls(kind, rows, width, np.ascontiguousarray(weight))


class Matrix:
    """A packed weight."""

    def __init__(
        self, pool: Pool, parts: Sequence[Rows], format: Format | None = None, gated: bool = False
    ) -> None:
        sources = (Source * len(parts))(
            *(Source(part.format, part.rows, part.data.ctypes.data) for part in parts)
        )
        self.format = parts[0].format if format is None else format
        self.rows, self.width = sum(part.rows for part in parts), parts[0].width
        assert all(part.width == self.width for part in parts)
        self.handle: int = (
            load().slipway_pack(pool.handle, sources, len(parts), self.width, self.format, gated) or 0
        )
        if not self.handle:
            raise error()
        self._free = weakref.finalize(self, load().slipway_matrix_destroy, self.handle)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(load().slipway_matrix_bytes(self.handle))

    def apply(self, pool: Pool, isa: str, rows: Array, input_bytes: int = 4) -> Array:
        """Return `rows` [n, width] times the matrix, transposed."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        out = np.empty((len(rows), self.rows), dtype=np.float32)
        at = (rows.ctypes.data, len(rows), input_bytes, out.ctypes.data)
        if load().slipway_linear(pool.handle, isa.encode(), self.handle, *at):
            raise error()
        return out
