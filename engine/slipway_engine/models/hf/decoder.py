"""A model of transformers as a decoder of ours: flattened tokens in, hidden states and logits out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from slipway_engine.models.attention import StepAttention
from slipway_engine.models.hf.registry import MaskFunction, answering


class TransformersDecoder:
    """Runs `model`, built with our attention; `modules` are those that ask for it, layer by layer.

    Token ids take the place of embedded rows, as the modelling embeds in ways of its own.
    """

    def __init__(self, model: Any, modules: Sequence[str]) -> None:
        self.model = model
        self.base: nn.Module = model.base_model
        self._head = _head_of(model)
        self._layers = {model.get_submodule(name): layer for layer, name in enumerate(modules)}

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the token ids: the model embeds them itself."""
        return token_ids

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, attend: StepAttention) -> torch.Tensor:
        """Return the hidden states [tokens, hidden] after the last norm."""
        with answering(_Attending(self._layers, attend)):
            out = self.base(
                input_ids=tokens[None],
                attention_mask=torch.ones_like(tokens)[None],
                position_ids=positions[None],
                use_cache=False,
            )
        states: torch.Tensor = out[0][0]
        return states

    def states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what embeddings are made of, in float32."""
        return hidden.float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [rows, vocabulary] of rows of `forward`, in float32."""
        logits: torch.Tensor = self._head(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return logits.float()


class _Attending:
    """Answers the attention of one step."""

    def __init__(self, layers: dict[nn.Module, int], attend: StepAttention) -> None:
        self.layers = layers
        self.step = attend

    def mask(self, function: MaskFunction, options: dict[str, Any]) -> None:
        """The step knows who sees what."""

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
        """Attend to the cache; what the module asks for was noted when the model was opened."""
        rows = [part[0].transpose(0, 1).flatten(1) for part in (key, value)]
        heads = query[0].transpose(0, 1)
        mixed = self.step.answer(self.layers[module], heads, torch.cat(rows, dim=1))
        return mixed.view(1, heads.shape[0], heads.shape[1], -1)


@dataclass
class _Given(ModelOutput):  # type: ignore[misc]
    """What a base model returns, as far as a head looks at it."""

    last_hidden_state: Any = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    cross_attentions: Any = None
    router_logits: Any = None


class _Passing(nn.Module):
    """Stands where the base model was, and returns the hidden states that it is given."""

    @property
    def decoder(self) -> _Passing:
        """Where a head asks the decoder within the base model."""
        return self

    def forward(self, *unused: Any, inputs_embeds: torch.Tensor, **ignored: Any) -> _Given:
        return _Given(last_hidden_state=inputs_embeds)


def _head_of(model: Any) -> Any:
    """Return the model without its base: its own code from hidden states to logits, on the same weights."""
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Passing()}
    return head
