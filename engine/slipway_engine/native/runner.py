"""A plan in, logits out, as the torch runner does it, but a step is one call of the native library."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import sqrt

import numpy as np
import torch

from slipway_engine.core.scheduler import PROMPT_ROWS, Scheduled
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.rope import inverse_frequencies
from slipway_engine.native import library
from slipway_engine.native.library import BLOCK, Array, Kv, LayerWeights, Matrix, ModelConfig, Pool, Step
from slipway_engine.native.weights import LayerParts, Weights

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
    """Keys and values: [blocks, layers, keys and values, heads, a head's bytes]; block 0 pads.

    A block is one piece of memory, and pages are huge where the system has them: blocks of a long context lie
    anywhere, and finding small pages takes longer than reading them.
    """

    def __init__(self, config: ModelConfig, num_blocks: int) -> None:
        self.num_blocks = num_blocks + 1
        self.head_bytes = kv_head_bytes(config)
        self.layer_bytes: int = 2 * config.kv_heads * self.head_bytes
        self.block_bytes: int = config.layers * self.layer_bytes
        memory = mmap.mmap(-1, self.num_blocks * self.block_bytes)  # zeros, which cost memory once written
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
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
    ) -> None:
        config = weights.config
        self.weights = weights  # the library reads the matrices in place
        self.pool = pool
        self.vocab_size = config.vocab_size
        native = model_config(config, input_bytes, kv)
        self.cache = Cache(native, num_blocks)
        windows = config.windows or (None,) * config.num_layers
        norms = config.norm_names()
        layers = (LayerWeights * config.num_layers)(
            *(_layer(layer, norms, window) for layer, window in zip(weights.layers, windows, strict=True))
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

    def step(
        self, token_ids: Array, positions: Array, starts: Array, blocks: Array, outputs: Array, logits: Array
    ) -> None:
        """Compute one step; the arrays are those of the library's step, of its types."""
        cache = self.cache
        step = Step(
            tokens=len(token_ids),
            sequences=len(positions),
            outputs=len(outputs),
            table_width=blocks.shape[1],
            token_ids=token_ids.ctypes.data,
            positions=positions.ctypes.data,
            starts=starts.ctypes.data,
            blocks=blocks.ctypes.data,
            output_rows=outputs.ctypes.data,
            logits=logits.ctypes.data,
            keys=cache.keys,
            values=cache.values,
            num_blocks=cache.num_blocks,
            layer_bytes=cache.layer_bytes,
            block_bytes=cache.block_bytes,
            head_bytes=cache.head_bytes,
        )
        if library.load().slipway_model_step(self.handle, ctypes.byref(step)):
            raise library.error()

    def times(self) -> dict[str, float]:
        """Return the seconds of each kind of work since the last call; the first begins to count."""
        seconds = np.zeros(len(PHASES))
        library.load().slipway_model_times(self.handle, seconds.ctypes.data)
        return dict(zip(PHASES, seconds.tolist(), strict=True))


class NativeRunner:
    """Flattens the scheduled tokens for the native model."""

    def __init__(self, model: NativeModel, max_num_seqs: int) -> None:
        self.model = model
        self._logits = np.zeros((max_num_seqs + PROMPT_ROWS, model.vocab_size), dtype=np.float32)

    def run(self, plan: Sequence[Scheduled]) -> tuple[list[Scheduled], torch.Tensor]:
        """Compute a step. Returns those that want logits, and their rows, good until the next step."""
        token_ids: list[int] = []
        outputs: list[int] = []
        starts, wanting = [0], []
        width = max(-(-(row.request.computed + row.count) // BLOCK) for row in plan)
        blocks = np.zeros((len(plan), width), dtype=np.int32)
        for table, row in zip(blocks, plan, strict=True):
            request, end = row.request, row.request.computed + row.count
            token_ids += request.tokens[request.computed : end]
            used = -(-end // BLOCK)
            table[:used] = request.blocks[:used]
            starts.append(starts[-1] + row.count)
            if rows := row.rows:
                outputs += range(starts[-1] - rows, starts[-1])
                wanting.append(row)
        logits = self._logits[: len(outputs)]
        self.model.step(
            np.array(token_ids, dtype=np.int64),
            np.array([row.request.computed for row in plan], dtype=np.int64),
            np.array(starts, dtype=np.int32),
            blocks,
            np.array(outputs, dtype=np.int32),
            logits,
        )
        return wanting, torch.from_numpy(logits)

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy whole blocks {target: source}, before a step."""
        self.model.cache.copy_blocks(copies)


def _layer(layer: LayerParts, norms: Sequence[str | None], window: int | None) -> LayerWeights:
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
