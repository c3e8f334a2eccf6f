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
from slipway_engine.kv.plan import MemoryPlan, Needs
from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.loading.weights import load
from slipway_engine.models import linear
from slipway_engine.models.attention import SCORE_COPIES, SCORE_PAIRS, PagedAttention
from slipway_engine.models.config import DecoderConfig
from slipway_engine.models.context import GROUP_TOKENS

_LOAD_CHUNK = 64 << 20
"""What unpacking a quantised tensor holds beside the result."""


class TorchBackend:
    """The decoder in torch, with the linear layers that suit the device best."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._dtype = dtype
        self._linear = linear.best_for(device, dtype)

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
        """Count bytes. Packed linear layers copy their weights, so a tied embedding is held twice then."""
        config, size = self._checkpoint.config, self._dtype.itemsize
        embedding = config.vocab_size * config.hidden_size
        copies = embedding if self._linear is not linear.plain and config.tied_embeddings else 0
        widest = max(embedding, 2 * config.intermediate_size * config.hidden_size, _qkv(config))
        per_layer = config.kv_elements_per_token * size
        return Needs(
            weights=(config.parameters() + copies) * size,
            load_peak=widest * size + _LOAD_CHUNK,
            baseline=baseline,
            kv_bytes_per_token=per_layer * config.num_layers,
            kv_bytes_per_token_layer=per_layer,
            activation_bytes_per_token=_activations(config) * max(size, 4),
            vocab_size=config.vocab_size,
            rotary_bytes_per_token=config.head_dim * (4 if config.local_rope is None else 8),
            gather_tokens=GROUP_TOKENS,
            max_position=config.max_position,
            mask_itemsize=size,
            score_pairs=SCORE_PAIRS,
            score_bytes_per_pair=4 * SCORE_COPIES * config.num_heads if config.attention_softcap else 0,
        )

    @torch.inference_mode()
    def load(self, memory: MemoryPlan, block_size: int, progress: Progress) -> Runner:
        """Read the weights layer by layer and allocate the cache."""
        config = self._checkpoint.config
        decoder = load(
            self._checkpoint, self._linear, self._device, self._dtype, memory.max_model_len, progress
        )
        caches = self._caches(config, memory.num_blocks + 1, block_size)
        return Runner(decoder, PagedAttention(config, caches), block_size, self._device, self._dtype)

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[sampler.Sampled]:
        """Choose the next token of each row."""
        return sampler.sample(logits, requests)

    def _caches(self, config: DecoderConfig, blocks: int, block_size: int) -> list[torch.Tensor]:
        """Return each layer's cache of zeros; on a CPU a page costs memory only once it is written."""
        shape = (blocks, block_size, config.kv_elements_per_token)
        if self._device.type != "cpu":
            return [
                torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(config.num_layers)
            ]
        size = torch.Size(shape).numel() * self._dtype.itemsize
        zeros = [np.zeros(size, dtype=np.uint8) for _ in range(config.num_layers)]
        return [torch.from_numpy(layer).view(self._dtype).view(shape) for layer in zeros]


def _qkv(config: DecoderConfig) -> int:
    return (config.query_size + 2 * config.kv_size) * config.hidden_size


def _activations(config: DecoderConfig) -> int:
    """Elements that one token holds at the widest point of a layer, with what is freed a moment later."""
    attention = 2 * (config.query_size + 2 * config.kv_size) + 2 * config.query_size
    mlp = 4 * config.intermediate_size
    if config.experts is not None:
        # All tokens may choose the same expert: their rows, its answers, the sum, and the router's shares.
        mlp += 3 * config.hidden_size + 4 * config.experts.count + 8 * config.experts.per_token
    return 6 * config.hidden_size + max(attention, mlp)
