"""The facts of a model as one bounded value, and how it travels as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MAX_ENCODED: Final = 4096
"""Bytes that a container's termination message may have (kubelet's limit)."""

# Far above any model, far below what would upset the planner's arithmetic.
MAX_LAYERS: Final = 1 << 10
MAX_WIDTH: Final = 1 << 18
MAX_HEADS: Final = 1 << 12
MAX_HEAD_DIM: Final = 1 << 10
MAX_VOCAB: Final = 1 << 22
MAX_POSITIONS: Final = 1 << 24
MAX_EXPERTS: Final = 1 << 12
MAX_BYTES: Final = 1 << 46
MAX_DTYPES: Final = 32
MAX_WINDOWS: Final = 8

Name = Annotated[str, Field(min_length=1, max_length=96, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
Layers = Annotated[int, Field(ge=1, le=MAX_LAYERS)]


class FactsError(ValueError):
    """The metadata of a model contradicts itself, is out of bounds, or lacks what a plan needs."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor as a file's header describes it; `size` in bytes, `dtype` as the format names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        """Return the number of stored elements."""
        return prod(self.shape)


class ModelFacts(BaseModel):
    """A decoder's sizes. `kv_width` is what one token keeps in one layer that keeps anything, in elements.

    Bytes are those of the checkpoint; `parameters` counts weights as the model has them, not as packed
    elements. With experts, `intermediate` is the width of one, and `expert_parameters` are those of all
    experts together. `windows` are (tokens, layers) of layers with a sliding window. `estimated` says that
    bytes and parameters were computed from the configuration because no header was at hand.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    architecture: Name
    format: Literal["safetensors", "gguf"]
    parameters: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    weights: Annotated[
        dict[Name, Annotated[int, Field(ge=0, le=MAX_BYTES)]], Field(min_length=1, max_length=MAX_DTYPES)
    ]
    dtype: Name
    layers: Layers
    hidden: Annotated[int, Field(ge=1, le=MAX_WIDTH)]
    intermediate: Annotated[int, Field(ge=1, le=MAX_WIDTH)]
    heads: Annotated[int, Field(ge=1, le=MAX_HEADS)]
    kv_heads: Annotated[int, Field(ge=1, le=MAX_HEADS)]
    head_dim: Annotated[int, Field(ge=1, le=MAX_HEAD_DIM)]
    kv_width: Annotated[int, Field(ge=1, le=2 * MAX_HEADS * MAX_HEAD_DIM)]
    kv_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    vocab: Annotated[int, Field(ge=1, le=MAX_VOCAB)]
    max_position: Annotated[int, Field(ge=1, le=MAX_POSITIONS)]
    tied: bool = False
    experts: Annotated[int, Field(ge=0, le=MAX_EXPERTS)] = 0
    experts_per_token: Annotated[int, Field(ge=0, le=MAX_EXPERTS)] = 0
    expert_parameters: Annotated[int, Field(ge=0, le=MAX_BYTES)] = 0
    windows: Annotated[
        tuple[tuple[Annotated[int, Field(ge=1, le=MAX_POSITIONS)], Layers], ...],
        Field(max_length=MAX_WINDOWS),
    ] = ()
    latent: bool = False
    """Keys and values are one compressed vector that all heads share (multi-head latent attention)."""
    quantization: Name | None = None
    """How the checkpoint's weights are packed, in the format's own word; None where they are floats."""
    estimated: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> ModelFacts:
        for wrong, sentence in (
            (self.heads % self.kv_heads, f"{self.heads} heads cannot share {self.kv_heads} key heads evenly"),
            (self.kv_layers > self.layers, f"{self.kv_layers} of {self.layers} layers cannot keep keys"),
            (self.experts_per_token > self.experts, "more experts answer a token than there are"),
            (self.expert_parameters > self.parameters, "the experts hold more parameters than the model"),
            (sum(layers for _, layers in self.windows) > self.layers, "more windows than layers"),
        ):
            if wrong:
                raise ValueError(sentence)
        return self

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights of the checkpoint."""
        return sum(self.weights.values())

    @property
    def active_parameters(self) -> int:
        """Return the parameters that one token passes through."""
        if not self.experts:
            return self.parameters
        idle = self.expert_parameters * (self.experts - self.experts_per_token) // self.experts
        return self.parameters - idle

    @property
    def embedding_parameters(self) -> int:
        """Return the parameters of the embedding, and of the head where it has its own."""
        return min(self.parameters, self.vocab * self.hidden * (1 if self.tied else 2))

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Return the bytes that one token keeps in all layers, `itemsize` bytes an element."""
        return self.kv_width * self.kv_layers * itemsize


def encode(facts: ModelFacts) -> str:
    """Return the facts as JSON of at most 4 KiB."""
    text = json.dumps(facts.model_dump(exclude_defaults=True), separators=(",", ":"), sort_keys=True)
    if len(text.encode()) > MAX_ENCODED:  # not reachable within the bounds above but for odd dtype names
        raise FactsError(f"the model's facts take {len(text)} bytes, more than {MAX_ENCODED}.")
    return text


def decode(text: str | bytes) -> ModelFacts:
    """Return the facts in `text`, which may come from anybody. Raises FactsError."""
    if len(text) > MAX_ENCODED:
        raise FactsError(f"the model's facts are longer than {MAX_ENCODED} bytes.")
    try:
        return ModelFacts.model_validate_json(text)
    except ValidationError as error:
        raise FactsError(f"the model's facts cannot be read: {_first(error)}.") from None


def build(**values: object) -> ModelFacts:
    """Return facts from checked values. Raises FactsError with the first that is out of bounds."""
    try:
        return ModelFacts.model_validate(values)
    except ValidationError as error:
        raise FactsError(f"the model's metadata is not usable: {_first(error)}.") from None


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    text = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
