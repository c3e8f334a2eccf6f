"""Whether and how the native path serves a model: chosen once, when the engine starts.

"auto" takes it wherever it can run and says in one line why not where it cannot; "native" insists.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import fields

import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core import sampler
from slipway_engine.core.backend import Memory, Progress
from slipway_engine.core.machine import Machine
from slipway_engine.core.request import Request
from slipway_engine.errors import InvalidArgument
from slipway_engine.kv.layout import layout_of
from slipway_engine.kv.plan import BESIDES, MemoryPlan, Needs
from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.models.config import DecoderConfig, RopeConfig
from slipway_engine.native import library, sampling, weights
from slipway_engine.native.library import BLOCK, PANEL, Format, Kv
from slipway_engine.native.runner import NativeModel, NativeRunner, kv_head_bytes, model_config

log = logging.getLogger(__name__)

BACKENDS = ("auto", "native", "torch")
QUANTIZATIONS = ("auto", "none", "int8", "int4")
KV_DTYPES = ("auto", "float16", "float32", "int8")
_KVS = {"auto": Kv.FLOAT16, "float16": Kv.FLOAT16, "float32": Kv.FLOAT32, "int8": Kv.INT8}
_MODES: dict[str, weights.Mode] = {"auto": "none", "none": "none", "int8": "int8", "int4": "int4"}
_DTYPES = {1: "int8", 2: "int16", 4: "float32"}
_VNNI = ("avx512", "avxvnni")

_LOAD_COPIES = 2
"""A weight beside its packed form: as it was read, and put in order."""

_MAX_HEAD_DIM, _MAX_GROUP = 512, 96

_FEATURES = {
    DecoderConfig: {
        "architecture", "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads",
        "num_kv_heads", "head_dim", "max_position", "rms_eps", "rope", "tied_embeddings", "qkv_bias",
        "out_bias", "mlp_bias", "qk_norm", "qk_norm_wide", "norms", "norm_offset", "activation",
        "attention_scale", "attention_softcap", "logits_softcap", "embedding_scale", "residual_scale",
        "logits_scale", "experts", "local_rope", "windows", "eos_token_ids", "dtype",
    },
    RopeConfig: {
        "theta", "kind", "factor", "low_freq_factor", "high_freq_factor", "original_max_position", "factors",
        "long_factors", "beta_fast", "beta_slow", "truncate", "magnitude", "fraction",
    },
}  # fmt: skip
"""The fields of a model that the library computes; any other must have its default."""

_ROPE_KINDS = ("default", "linear", "llama3", "factors", "yarn", "longrope")


class NativeBackend:
    """A checkpoint on the native path.

    `input_bytes`: quantised matrices multiply inputs of so many bytes: 4 are floats, 2 and 1 whole numbers
    with a scale for each 32. `mode` says to how many bits weights are rounded while they are read.
    """

    device = "cpu"

    def __init__(
        self,
        checkpoint: Checkpoint,
        threads: int,
        isa: str,
        *,
        mode: weights.Mode,
        input_bytes: int,
        kv: Kv,
        max_num_seqs: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._threads = threads
        self._isa = isa
        self._input_bytes = input_bytes
        self._mode = mode
        self._kv = kv
        self._max_num_seqs = max_num_seqs
        self._runner: NativeRunner | None = None

    @property
    def dtype(self) -> str:
        """The type that linears multiply in."""
        checkpoint = self._checkpoint
        formats = [
            _packed_format(checkpoint, names, self._mode) for names in weights.groups(checkpoint.config)
        ]
        whole = any(format.quantised for format in formats)
        return _DTYPES[self._input_bytes if whole else 4]

    def memory(self, machine: Machine) -> Memory:
        """Return the process's memory and its limit."""
        return Memory(machine.resident(), machine.memory_limit(), machine.memory_available())

    def needs(self, baseline: int) -> Needs:
        """Return what the packed model and its steps need."""
        checkpoint, config = self._checkpoint, self._checkpoint.config
        native = model_config(config, self._input_bytes, self._kv)
        kept = layout_of(config.attention_layers, config.max_position).groups
        groups = weights.groups(config)
        workspace = library.load().slipway_workspace_bytes
        return Needs(
            weights=sum(_packed_bytes(checkpoint, names, self._mode) for names in groups),
            load_peak=_LOAD_COPIES * max(4 * _elements(checkpoint, names) for names in groups),
            baseline=baseline + workspace(ctypes.byref(native), self._threads, 0),
            kv_bytes_per_token=2 * kept.places * config.num_kv_heads * kv_head_bytes(native) // BLOCK,
            kv_bytes_per_token_layer=0,  # the cache is read in place
            activation_bytes_per_token=workspace(ctypes.byref(native), 0, 1),
            vocab_size=config.vocab_size,
            rotary_bytes_per_token=library.load().slipway_context_bytes(ctypes.byref(native), self._threads),
            gather_tokens=0,
            max_position=config.max_position,
            mask_itemsize=0,
            other_process=BESIDES,
            kv_windows=kept.windows,
        )

    def load(self, memory: MemoryPlan, block_size: int, progress: Progress) -> NativeRunner:
        """Read and pack the weights, and allocate the cache."""
        assert block_size == BLOCK
        pool, config = library.Pool(self._threads), self._checkpoint.config
        packed = weights.load(self._checkpoint, pool, self._mode, progress)
        model = NativeModel(
            packed,
            pool,
            self._isa,
            memory.num_blocks,
            self._input_bytes,
            self._kv,
            memory.max_model_len,
            layout_of(config.attention_layers, config.max_position),
        )
        self._runner = NativeRunner(model, self._max_num_seqs)
        return self._runner

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[sampler.Sampled]:
        """Choose the next token of each row."""
        assert self._runner is not None, "sampling before loading"
        pool, largest = self._runner.model.pool, self._runner.largest(logits)
        return sampling.sample(pool, self._isa, logits, requests, largest)


def choose(
    config: EngineConfig, checkpoint: Checkpoint, device: torch.device, threads: int
) -> NativeBackend | None:
    """Return the native path for this engine, or None where torch computes."""
    for name, value, known in (
        ("cpu_backend", config.cpu_backend, BACKENDS),
        ("quantization", config.quantization, QUANTIZATIONS),
        ("kv_cache_dtype", config.kv_cache_dtype, KV_DTYPES),
    ):
        if value not in known:
            raise InvalidArgument(f"{name} is {value!r}; write {', '.join(known[:-1])} or {known[-1]}.")
    obstacle = _obstacle(config, device, checkpoint.config)
    if obstacle is None:
        isa, mode = library.choose_instruction_set(), _MODES[config.quantization]
        formats = {_packed_format(checkpoint, names, mode) for names in weights.groups(checkpoint.config)}
        chosen = NativeBackend(
            checkpoint,
            threads,
            isa,
            mode=mode,
            input_bytes=_input_bytes(config.quantization, isa, formats),
            kv=_KVS[config.kv_cache_dtype],
            max_num_seqs=config.max_num_seqs,
        )
        log.info("native CPU path: %s, linears in %s", isa, chosen.dtype)
        return chosen
    rounds = config.quantization in ("int8", "int4") and config.cpu_backend != "torch"
    if config.cpu_backend == "native" or rounds:
        asked = "cpu_backend native" if not rounds else f"quantization {config.quantization}"
        raise InvalidArgument(f"{asked} cannot be used: {obstacle}.")
    if device.type == "cpu" and config.cpu_backend == "auto":
        log.info("torch computes, not the native CPU path: %s", obstacle)
    return None


def _obstacle(config: EngineConfig, device: torch.device, model: DecoderConfig) -> str | None:
    """Say what keeps the native path from running, with the way out."""
    if config.cpu_backend == "torch":
        return "cpu_backend is torch"
    if device.type != "cpu":
        return f"it computes on the CPU, and device is {device.type}"
    if config.dtype not in ("auto", "float32"):
        return f"dtype is {config.dtype}; it takes auto or float32"
    if config.block_size != BLOCK:
        return f"block_size is {config.block_size}; it takes {BLOCK}"
    if model.head_dim > _MAX_HEAD_DIM or model.head_dim % 2:
        return f"the model's head_dim is {model.head_dim}; it takes even ones up to {_MAX_HEAD_DIM}"
    if model.num_heads // model.num_kv_heads > _MAX_GROUP:
        return f"more than {_MAX_GROUP} of the model's query heads share a key head"
    ropes = [model.rope, model.local_rope or model.rope]
    if any(rope.turned(model.head_dim) != model.rope.turned(model.head_dim) for rope in ropes):
        return "the model's layers turn different parts of a head"
    if model.rope.turned(model.head_dim) % 2:
        return "the model turns an odd part of a head"
    feature = _missing_feature(model) or next(filter(None, map(_missing_feature, ropes)), None)
    if feature is not None:
        return f"the model's {feature} is not implemented there"
    if not library.available():
        return "its library is not built; run python -m slipway_engine.native.build"
    return None


def _missing_feature(part: DecoderConfig | RopeConfig) -> str | None:
    """Return the first field that is set and that the library knows nothing of, with its value."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name not in _FEATURES[type(part)] and value != field.default:
            return f"{field.name} {value!r}"
    if isinstance(part, RopeConfig) and part.kind not in _ROPE_KINDS:
        return f"rope kind {part.kind!r}"
    return None


def _input_bytes(quantization: str, isa: str, formats: set[Format]) -> int:
    """Two bytes lose less than a cache of float16 does; they are chosen where they are faster than floats.

    That is everywhere with VNNI, and for 4-bit weights with AVX2.
    """
    if quantization in ("auto", "int4"):
        return 2 if isa in _VNNI or (isa == "avx2" and formats & {Format.Q4_0, Format.Q4_1}) else 4
    return 1 if quantization == "int8" else 4


def _packed_format(checkpoint: Checkpoint, names: tuple[str, ...], mode: weights.Mode) -> Format:
    types = [checkpoint.stored_type(f"{name}.weight") for name in names]
    return weights.packed_format(names, types, checkpoint.shapes[f"{names[0]}.weight"][1], mode)


def _packed_bytes(checkpoint: Checkpoint, names: tuple[str, ...], mode: weights.Mode) -> int:
    shapes = [checkpoint.shapes[f"{name}.weight"] for name in names]
    rows, width = sum(shape[0] for shape in shapes), shapes[0][1]
    format = _packed_format(checkpoint, names, mode)
    return -(-rows // PANEL) * PANEL * format.row_bytes(width)


def _elements(checkpoint: Checkpoint, names: tuple[str, ...]) -> int:
    return sum(torch.Size(checkpoint.shapes[f"{name}.weight"]).numel() for name in names)
