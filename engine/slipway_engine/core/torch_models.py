"""The two kinds of model that torch runs, our decoder and transformers' modelling: what each needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from slipway_engine.loading import weights
from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.loading.transformers_model import TransformersModel
from slipway_engine.models import linear
from slipway_engine.models.config import DecoderConfig, ModelConfig
from slipway_engine.models.decoder import Decoder
from slipway_engine.models.pooling import Pooling
from slipway_engine.models.quantised import Quantised

if TYPE_CHECKING:
    from slipway_engine.models.hf.decoder import TransformersDecoder

_LOAD_CHUNK = 64 << 20
"""What unpacking a quantised tensor holds beside the result."""


class TorchModel(Protocol):
    """An opened model, before its weights are read. Sizes are in bytes."""

    @property
    def config(self) -> ModelConfig:
        """What serving must know of it."""

    @property
    def pooling(self) -> Pooling | None:
        """How its states become an embedding, where it is made for them."""

    @property
    def weights(self) -> int:
        """What the loaded weights take, with packed copies."""

    @property
    def load_peak(self) -> int:
        """What loading holds beside them."""

    @property
    def activations(self) -> int:
        """What a step holds for each of its tokens."""

    @property
    def rotary(self) -> int:
        """What the rotary tables take for each position."""

    def load(self, positions: int, progress: Callable[[int, int], None]) -> Decoder | TransformersDecoder:
        """Read the weights, for sequences of up to `positions` tokens."""


class OwnModel:
    """A checkpoint for our decoder. Packed linear layers copy weights, so a tied embedding is held twice."""

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, mode: str = "none"
    ) -> None:
        self._checkpoint = checkpoint
        self.pooling = checkpoint.pooling
        self._device = device
        self._dtype = dtype
        self._linear = linear.best_for(device, dtype)
        self._rounding = Quantised(mode) if mode in ("int8", "int4") else None

    @property
    def config(self) -> DecoderConfig:
        """The decoder's numbers."""
        return self._checkpoint.config

    @property
    def weights(self) -> int:
        """Every parameter in the type that we compute in."""
        config = self.config
        twice = self._linear is not linear.plain and config.tied_embeddings
        copies = config.vocab_size * config.hidden_size if twice else 0
        return (config.parameters() + copies) * self._dtype.itemsize

    @property
    def load_peak(self) -> int:
        """The widest matrix as it was read, beside its packed form."""
        config = self.config
        qkv = (config.query_size + 2 * config.kv_size) * config.hidden_size
        embedding = config.vocab_size * config.hidden_size
        widest = max(embedding, 2 * config.intermediate_size * config.hidden_size, qkv)
        rounding = 3 * 4 * widest if self._rounding is not None else 0
        return widest * self._dtype.itemsize + rounding + _LOAD_CHUNK

    @property
    def activations(self) -> int:
        """A token at the widest point of a layer."""
        return _activations(self.config) * max(self._dtype.itemsize, 4)

    @property
    def rotary(self) -> int:
        """One complex number for each pair that turns, for each of the tables."""
        return self.config.head_dim * (4 if self.config.local_rope is None else 8)

    def load(self, positions: int, progress: Callable[[int, int], None]) -> Decoder:
        """Read all layers, one by one."""
        return weights.load(
            self._checkpoint, self._linear, self._device, self._dtype, positions, progress, self._rounding
        )


class OtherModel:
    """A model of transformers; its weights are copied once, and some are merged as they are read."""

    def __init__(self, model: TransformersModel, device: torch.device, dtype: torch.dtype) -> None:
        self._model = model
        self._device = device
        self._dtype = dtype
        self.config = model.config
        self.pooling = model.pooling

    @property
    def weights(self) -> int:
        """Every parameter in the type that we compute in."""
        return self.config.parameters * self._dtype.itemsize

    @property
    def load_peak(self) -> int:
        """The largest tensor three times: in parts, merged, and in the type that is wanted."""
        return 3 * self.config.largest * 4 + _LOAD_CHUNK

    @property
    def activations(self) -> int:
        """What a trace of its code held for each token."""
        return self.config.step_bytes

    @property
    def rotary(self) -> int:
        """Its modelling computes rotations for each step anew."""
        return 0

    def load(self, positions: int, progress: Callable[[int, int], None]) -> TransformersDecoder:
        """Stream the weights in, and check the answers."""
        decoder = self._model.load(self._device, self._dtype)
        layers = len(self.config.attention_layers)
        progress(layers, layers)
        return decoder


def _activations(config: DecoderConfig) -> int:
    """Elements that one token holds at the widest point of a layer, with what is freed a moment later."""
    attention = 2 * (config.query_size + 2 * config.kv_size) + 2 * config.query_size
    mlp = 4 * config.intermediate_size
    if config.experts is not None:
        # All tokens may choose the same expert: their rows, its answers, the sum, and the router's shares.
        mlp += 3 * config.hidden_size + 4 * config.experts.count + 8 * config.experts.per_token
    return 6 * config.hidden_size + max(attention, mlp)
