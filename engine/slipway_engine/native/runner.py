"""A plan in, logits out, as the torch runner does it, but a step is one call of the native library."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from array import array
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TypeAlias

import numpy as np
import torch

from slipway_engine.core.scheduler import PROMPT_ROWS, Scheduled
from slipway_engine.kv.layout import KvLayout, one_group
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.rope import inverse_frequencies
from slipway_engine.native import library
from slipway_engine.native.library import Array, Kv, LayerWeights, Matrix, ModelConfig, Pool, Step
from slipway_engine.native.weights import LayerParts, Weights

Numbers: TypeAlias = "Array | array[int]"

PHASES = ("embedding", "norms", "qkv", "cache", "attention", "output", "mlp", "head")
"""What a step's time is counted under; the library's order."""


def model_config(config: DecoderConfig, input_bytes: int, kv: Kv) -> ModelConfig:
    """Return the decoder's numbers as the library takes them."""
    experts = config.experts
    return ModelConfig(
        experts=0 if experts is None else experts.count,
        experts_per_token=0 if experts is None else experts.per_token,
        experts_normalised=experts is not None and experts.normalised,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        input_bytes=input_bytes,
        gelu=config.activation == "gelu_tanh",
        kv=kv,
        turned=config.rope.turned(config.head_dim),
        wide_norms=config.qk_norm_wide,
        norm_eps=config.rms_eps,
        attention_scale=config.attention_scale or 1 / sqrt(config.head_dim),
        embedding_scale=config.embedding_scale,
        residual_scale=config.residual_scale,
        logits_scale=config.logits_scale,
        attention_softcap=config.attention_softcap,
        logits_softcap=config.logits_softcap,
        rope_scale=config.rope.magnitude,
        local_rope_scale=(config.local_rope or config.rope).magnitude,
    )


def kv_head_bytes(config: ModelConfig) -> int:
    """Return the bytes that one head's keys, or its values, take in a block of the cache."""
    found: int = library.load().slipway_kv_head_bytes(ctypes.byref(config))
    return found


class Cache:
    """Keys and values: [blocks, places of layers, keys and values, heads, a head's bytes]; block 0 pads.

    A block is one piece of memory, and so is a layer's part of it.
    """

    def __init__(self, config: ModelConfig, places: int, num_blocks: int) -> None:
        self.num_blocks = num_blocks + 1
        self.head_bytes = kv_head_bytes(config)
        self.layer_bytes: int = 2 * config.kv_heads * self.head_bytes
        self.block_bytes: int = places * self.layer_bytes
        # Zeros, which cost memory once written. Asking for huge pages made nothing faster (a layer's part of
        # a block is some pages in a row) and the first write of each much slower.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, self.num_blocks * self.block_bytes, flags=flags)
        self.data = np.frombuffer(memory, dtype=np.uint8)

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy whole blocks {target: source}."""
        blocks = self.data.reshape(self.num_blocks, self.block_bytes)
        for target, source in copies.items():
            blocks[target] = blocks[source]

    @property
    def keys(self) -> int:
        """Address of the first block's keys."""
        return int(self.data.ctypes.data)

    @property
    def values(self) -> int:
        """Address of the first block's values."""
        return self.keys + self.layer_bytes // 2


class NativeModel:
    """A loaded decoder: token ids and block tables in, logits out."""

    def __init__(
        self,
        weights: Weights,
        pool: Pool,
        isa: str,
        num_blocks: int,
        input_bytes: int,
        kv: Kv,
        max_positions: int,
        layout: KvLayout | None = None,
    ) -> None:
        config = weights.config
        layout = layout or one_group(config.attention_layers)
        self.groups = len(layout.groups.windows)
        self.weights = weights  # the library reads the matrices in place
        self.pool = pool
        self.vocab_size = config.vocab_size
        native = model_config(config, input_bytes, kv)
        self.cache = Cache(native, layout.groups.layers, num_blocks)
        windows = config.layer_windows
        norms = config.norm_names()
        layers = (LayerWeights * config.num_layers)(
            *(
                _layer(layer, norms, window, at)
                for layer, window, at in zip(weights.layers, windows, layout.places, strict=True)
            )
        )
        turns = [
            inverse_frequencies(rope, config.head_dim, max_positions).float().numpy()
            for rope in (config.rope, config.local_rope or config.rope)
        ]
        self.handle: int = (
            library.load().slipway_model_create(
                pool.handle,
                isa.encode(),
                ctypes.byref(native),
                layers,
                weights.norm.ctypes.data,
                turns[0].ctypes.data,
                turns[1].ctypes.data,
                weights.embedding.handle,
                weights.head.handle,
            )
            or 0
        )
        if not self.handle:
            raise library.error()
        self._free = weakref.finalize(self, library.load().slipway_model_destroy, self.handle)
        self._step = Step(
            keys=self.cache.keys,
            values=self.cache.values,
            num_blocks=self.cache.num_blocks,
            layer_bytes=self.cache.layer_bytes,
            block_bytes=self.cache.block_bytes,
            head_bytes=self.cache.head_bytes,
        )

    def step(
        self,
        token_ids: Numbers,
        positions: Numbers,
        starts: Numbers,
        blocks: Numbers,
        tables: Numbers,
        outputs: Numbers,
        logits: int,
        largest: tuple[int, int] = (0, 0),
    ) -> None:
        """Compute one step; the arrays are those of the library's step, of its types, and flat.

        `logits` is the address of the rows to write, `largest` those of their largest values and the places.
        """
        step = self._step
        step.tokens, step.sequences, step.outputs = len(token_ids), len(positions), len(outputs)
        step.token_ids, step.positions = _address(token_ids), _address(positions)
        step.starts, step.output_rows = _address(starts), _address(outputs)
        step.blocks, step.tables = _address(blocks), _address(tables)
        step.logits, (step.largest, step.places) = logits, largest
        if library.load().slipway_model_step(self.handle, ctypes.byref(step)):
            raise library.error()

    def times(self) -> dict[str, float]:
        """Return the seconds of each kind of work since the last call; the first begins to count."""
        seconds = np.zeros(len(PHASES))
        library.load().slipway_model_times(self.handle, seconds.ctypes.data)
        return dict(zip(PHASES, seconds.tolist(), strict=True))


class NativeRunner:
    """Flattens the scheduled tokens for the native model.

    A step's weights push what Python needs out of the processor's caches, so each call that a step can do
    without is some microseconds: plain arrays in place of numpy's, and buffers whose addresses stay.
    """

    def __init__(self, model: NativeModel, max_num_seqs: int) -> None:
        self.model = model
        rows = max_num_seqs + PROMPT_ROWS
        self._logits = torch.zeros(rows, model.vocab_size)
        self._views: dict[int, torch.Tensor] = {}
        self._largest, self._places = (ctypes.c_float * rows)(), (ctypes.c_int64 * rows)()
        self._addresses = ctypes.addressof(self._largest), ctypes.addressof(self._places)
        self._logits_address = self._logits.data_ptr()

    def run(self, plan: Sequence[Scheduled]) -> tuple[list[Scheduled], torch.Tensor]:
        """Compute a step. Returns those that want logits, and their rows, good until the next step."""
        token_ids: list[int] = []
        outputs: list[int] = []
        blocks: list[int] = []
        starts, tables, wanting = [0], [0], []
        for row in plan:
            request = row.request
            token_ids += request.tokens[request.computed : request.computed + row.count]
            blocks += request.tables[0][request.slid[0] :]
            tables.append(len(blocks))
            starts.append(starts[-1] + row.count)
            if row.rows:
                outputs += range(starts[-1] - row.rows, starts[-1])
                wanting.append(row)
        for group in range(1, self.model.groups):
            for row in plan:
                blocks += row.request.tables[group][row.request.slid[group] :]
                tables.append(len(blocks))
        self.model.step(
            array("q", token_ids),
            array("q", [row.request.computed for row in plan]),
            array("i", starts),
            array("i", blocks),
            array("i", tables),
            array("i", outputs),
            self._logits_address,
            self._addresses,
        )
        return wanting, self._first(len(outputs))

    def largest(self, logits: torch.Tensor) -> tuple[list[float], list[int]] | None:
        """Return the rows' largest values and places, where these are a step's logits as it left them."""
        rows = len(logits)
        return (self._largest[:rows], self._places[:rows]) if self._views.get(rows) is logits else None

    def _first(self, rows: int) -> torch.Tensor:
        if rows not in self._views:
            self._views[rows] = self._logits[:rows]
        return self._views[rows]

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy whole blocks {target: source}, before a step."""
        self.model.cache.copy_blocks(copies)


def _address(values: Numbers) -> int:
    if isinstance(values, array):
        return values.buffer_info()[0]
    address: int = values.ctypes.data
    return address


def _layer(
    layer: LayerParts, norms: Sequence[str | None], window: int | None, at: tuple[int, int]
) -> LayerWeights:
    def address(name: str | None) -> int | None:
        vector = layer.vectors.get(name or "")
        return None if vector is None else vector.ctypes.data

    return LayerWeights(
        qkv=layer.qkv.handle,
        out=layer.out.handle,
        gate_up=_handle(layer.gate_up),
        down=_handle(layer.down),
        router=_handle(layer.router),
        expert_gate_up=layer.experts_gate_up.ctypes.data,
        expert_down=layer.experts_down.ctypes.data,
        qkv_bias=_address_of_qkv_bias(layer),
        out_bias=address("self_attn.o_proj.bias"),
        gate_bias=address("mlp.gate_proj.bias"),
        up_bias=address("mlp.up_proj.bias"),
        down_bias=address("mlp.down_proj.bias"),
        attention_norm=address(norms[0]),
        mlp_norm=address(norms[2]),
        query_norm=address("self_attn.q_norm.weight"),
        key_norm=address("self_attn.k_norm.weight"),
        attention_post_norm=address(norms[1]),
        mlp_post_norm=address(norms[3]),
        window=window or 0,
        group=at[0],
        place=at[1],
    )


def _handle(matrix: Matrix | None) -> int | None:
    return None if matrix is None else matrix.handle


def _address_of_qkv_bias(layer: LayerParts) -> int | None:
    names = [f"self_attn.{part}_proj.bias" for part in "qkv"]
    if names[0] not in layer.vectors:
        return None
    # Kept beside the parts: the address must outlive this call.
    fused = layer.vectors.setdefault("qkv.bias", np.concatenate([layer.vectors[name] for name in names]))
    return int(fused.ctypes.data)
