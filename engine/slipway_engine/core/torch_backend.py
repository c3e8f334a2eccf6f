"""The backend that runs everywhere: plain torch on a CPU or a GPU, and the reference for any other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from slipway_engine.core import sampler
from slipway_engine.core.backend import Memory, Progress
from slipway_engine.core.machine import Machine
from slipway_engine.core.request import Request
from slipway_engine.core.runner import Runner
from slipway_engine.core.torch_models import TorchModel
from slipway_engine.kv.layout import layout_of
from slipway_engine.kv.plan import BESIDES, GROWTH, MemoryPlan, Needs
from slipway_engine.models.attention import SCORE_COPIES, SCORE_PAIRS, PagedAttention
from slipway_engine.models.config import AttentionLayer
from slipway_engine.models.context import GROUP_TOKENS
from slipway_engine.models.kv_cache import row_elements


class TorchBackend:
    """A model in torch. `kv_dtype` is what keys and values are kept in; int8 has scales of its own."""

    def __init__(
        self, model: TorchModel, device: torch.device, dtype: torch.dtype, kv_dtype: torch.dtype | None = None
    ) -> None:
        self._model = model
        self._device = device
        self._dtype = dtype
        self._kv_dtype = dtype if kv_dtype is None else kv_dtype
        self._layers = model.config.attention_layers
        self._layout = layout_of(self._layers, model.config.max_position)

    @property
    def device(self) -> str:
        """The device's kind: cpu or cuda."""
        return self._device.type

    @property
    def dtype(self) -> str:
        """The type that it computes in, as torch names it."""
        return str(self._dtype).removeprefix("torch.")

    def memory(self, machine: Machine) -> Memory:
        """Return the memory of the GPU, or of this process's cgroup."""
        if self._device.type == "cuda":
            available, limit = torch.cuda.mem_get_info(self._device)
            return Memory(limit - available, limit, available)
        return Memory(machine.resident(), machine.memory_limit(), machine.memory_available())

    def needs(self, baseline: int) -> Needs:
        """Return what the model, its steps and its cache need."""
        rows = [self.row_bytes(layer) for layer in self._layers]
        capped = any(layer.softcap for layer in self._layers)
        heads = max(layer.heads for layer in self._layers)
        return Needs(
            weights=self._model.weights,
            load_peak=self._model.load_peak,
            baseline=baseline,
            kv_bytes_per_token=sum(rows) if len(set(rows)) > 1 else rows[0] * self._layout.groups.places,
            kv_bytes_per_token_layer=max(map(self._gathered_bytes, self._layers)),
            activation_bytes_per_token=self._model.activations,
            vocab_size=self._model.config.vocab_size,
            rotary_bytes_per_token=self._model.rotary,
            gather_tokens=GROUP_TOKENS,
            max_position=self._model.config.max_position,
            mask_itemsize=self._dtype.itemsize,
            score_pairs=SCORE_PAIRS,
            score_bytes_per_pair=4 * SCORE_COPIES * heads if capped else 0,
            other_process=BESIDES if self._device.type == "cpu" else GROWTH,
            kv_windows=self._layout.groups.windows,
        )

    @torch.no_grad()
    def load(self, memory: MemoryPlan, block_size: int, progress: Progress) -> Runner:
        """Read the weights and allocate the cache. An embedding model's runner answers with hidden states."""
        decoder = self._model.load(memory.max_model_len, progress)
        # Layers differ only where each has a place of its own.
        layers = self._layers[: self._layout.groups.layers]
        caches = [self.cache(layer, memory.num_blocks + 1, block_size) for layer in layers]
        attention = PagedAttention(self._model.config, caches, self._layout.places)
        states = self._model.pooling is not None
        return Runner(decoder, attention, block_size, self._device, self._dtype, states=states)

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[sampler.Sampled]:
        """Choose the next token of each row."""
        return sampler.sample(logits, requests)

    def row_bytes(self, layer: AttentionLayer) -> int:
        """Return the bytes that a token keeps in a layer."""
        return row_elements(layer, self._kv_dtype) * self._kv_dtype.itemsize

    def _gathered_bytes(self, layer: AttentionLayer) -> int:
        """A token's row as it was kept, and, where that is another type, in float32 and as it is read."""
        rows = self.row_bytes(layer)
        if self._kv_dtype is self._dtype:
            return rows
        return rows + layer.elements * (4 + self._dtype.itemsize)

    def cache(self, layer: AttentionLayer, blocks: int, block_size: int) -> torch.Tensor:
        """Return a layer's cache of zeros; on a CPU a page costs memory only once it is written."""
        shape = (blocks, block_size, row_elements(layer, self._kv_dtype))
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=self._kv_dtype, device=self._device)
        size = torch.Size(shape).numel() * self._kv_dtype.itemsize
        return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(self._kv_dtype).view(shape)
