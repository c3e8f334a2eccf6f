"""Our attention among those that transformers' modelling can call: one name, answered by whoever listens.

A model calls its attention with the module that asks, and with a mask that came from our mask function. Who
runs the model says with `answering` what becomes of both: the trace takes notes, the decoder attends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "slipway"
"""The attention implementation that a model must be built with."""

MaskFunction: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes indices of batch, head, query and key; returns True where the query sees the key."""


class Listener(Protocol):
    """Who answers a model's attention."""

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
        """Answer heads [1, heads, tokens, dim] with [1, tokens, heads, value dim]."""

    def mask(self, function: MaskFunction, options: dict[str, Any]) -> torch.Tensor | None:
        """Return what the model is to hand to `attend` as the mask that `function` describes."""


_listener: ContextVar[Listener] = ContextVar("listener")


@contextmanager
def answering(listener: Listener) -> Iterator[None]:
    """Let `listener` answer every model that runs within."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    answer = _listener.get().attend(module, query, key, value, attention_mask, scaling, options)
    return answer, None


def _mask(*, mask_function: MaskFunction, **options: Any) -> torch.Tensor | None:
    return _listener.get().mask(mask_function, options)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
