"""What a model's attention is, layer by layer, found by running its code on tensors without data.

A model qualifies where each layer calls our attention once, with keys and values of its own and a mask that
we know; whatever else it keeps between steps is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slipway_engine.errors import ModelUnsupported
from slipway_engine.models.config import AttentionLayer
from slipway_engine.models.hf.live import LiveBytes
from slipway_engine.models.hf.masks import UnknownMask, window_of
from slipway_engine.models.hf.registry import MaskFunction, answering

TOKENS = 64
"""Tokens of the trace; what a step holds is counted per token."""

_REFUSED_OPTIONS = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "position_bias": "position biases",
}


@dataclass(frozen=True, slots=True)
class Traced:
    """Each layer's attention, the name of the module that asks for it, and a step's bytes for each token."""

    layers: tuple[AttentionLayer, ...]
    modules: tuple[str, ...]
    step_bytes: int


def trace(model: Any, layers: int, max_position: int) -> Traced:
    """Run `model`, on the meta device, once; raises ModelUnsupported where it does not qualify."""
    notes = _Notes({module: name for name, module in model.named_modules()}, max_position)
    ids = torch.zeros(1, TOKENS, dtype=torch.int64, device="meta")
    live = LiveBytes()
    with torch.no_grad(), answering(notes), live:
        model.base_model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(TOKENS, device="meta")[None],
            use_cache=False,
        )
    if len(notes.layers) != layers:
        raise ModelUnsupported(
            f"{len(notes.layers)} of its {layers} layers keep keys and values; what the others keep between "
            "steps is not supported"
        )
    return Traced(tuple(notes.layers.values()), tuple(notes.layers), -(-live.peak // TOKENS))


class _Notes:
    """Listens to one run, and writes down what each layer asks for."""

    def __init__(self, names: dict[nn.Module, str], max_position: int) -> None:
        self.names = names
        self.max_position = max_position
        self.layers: dict[str, AttentionLayer] = {}
        self._masks: list[tuple[torch.Tensor, int | UnknownMask | None]] = []

    def mask(self, function: MaskFunction, options: dict[str, Any]) -> torch.Tensor:
        """Return a tensor that stands for the mask, known again by its identity."""
        window: int | UnknownMask | None
        try:
            with torch.device("cpu"):
                window = window_of(function, self.max_position)
        except UnknownMask as error:  # it matters only where a layer uses the mask
            window = error
        stand_in = torch.zeros(
            1, 1, options["q_length"], options["kv_length"], dtype=torch.bool, device="meta"
        )
        self._masks.append((stand_in, window))
        return stand_in

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Note the layer's attention; the answer has its shape and no data."""
        name = self.names[module]
        if name in self.layers:
            raise ModelUnsupported(f"{name} attends more than once a step, which is not supported")
        for option, what in _REFUSED_OPTIONS.items():
            if options.get(option) is not None:
                raise ModelUnsupported(f"{name} has {what}, which are not supported")
        if query.shape[2] != key.shape[2]:
            raise ModelUnsupported(f"{name} attends to other tokens than its own, which is not supported")
        self.layers[name] = AttentionLayer(
            heads=query.shape[1],
            kv_heads=key.shape[1],
            key_dim=query.shape[3],
            value_dim=value.shape[3],
            scale=query.shape[3] ** -0.5 if scale is None else float(scale),
            window=self._window(name, mask),
            softcap=float(options.get("softcap") or 0.0),
        )
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])

    def _window(self, name: str, mask: torch.Tensor | None) -> int | None:
        for stand_in, window in self._masks:
            if mask is not stand_in:
                continue
            if isinstance(window, UnknownMask):
                raise ModelUnsupported(f"the mask of {name} is not supported: {window}") from window
            return window
        raise ModelUnsupported(f"{name} attends with a mask of its own making, which is not supported")
