"""A directory of any other architecture that transformers has: opened without weights, then streamed in.

transformers builds the modules, on the meta device, and says how a checkpoint's names become theirs; our own
reader opens the files. No code comes from the directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from slipway_engine.errors import EngineError, ModelCorrupt, ModelUnsupported
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.hf_config import architectures, read_dtype, read_eos, read_json
from slipway_engine.loading.limits import (
    MAX_ALL_EXPERTS,
    MAX_EXPERTS,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
)
from slipway_engine.loading.pooling import read_pooling
from slipway_engine.loading.shards import Shards
from slipway_engine.models.config import AttentionLayer

if TYPE_CHECKING:
    from slipway_engine.models.hf.decoder import TransformersDecoder

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class TransformersConfig:
    """What serving must know of a model, read from its configuration and from a trace of its code.

    `parameters` counts elements, tied ones once; `step_bytes` is what a step's token holds in float32.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    max_position: int
    eos_token_ids: tuple[int, ...]
    dtype: torch.dtype
    attention_layers: tuple[AttentionLayer, ...]
    parameters: int
    largest: int
    step_bytes: int

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """Each layer's window."""
        return tuple(layer.window for layer in self.attention_layers)


class TransformersModel:
    """An opened model. Raises ModelUnsupported where its modelling cannot attend through our cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pooling = read_pooling(path)
        self._fields = Fields(path / "config.json", read_json(path / "config.json"))
        self._architecture = architectures(self._fields)[0]
        self._check_bounds()
        self._shards = Shards(path)
        with self._named("cannot be built"):
            self._config, self._class = _resolve(path, self._architecture)
            traced, parameters, largest = self._trace()
        self._modules = traced.modules
        self.config = TransformersConfig(
            architecture=self._architecture,
            vocab_size=int(self._config.vocab_size),
            hidden_size=int(self._config.hidden_size),
            max_position=self._max_position(),
            eos_token_ids=read_eos(self._fields, path),
            dtype=read_dtype(self._fields),
            attention_layers=traced.layers,
            parameters=parameters,
            largest=largest,
            step_bytes=traced.step_bytes,
        )

    def load(self, device: torch.device, dtype: torch.dtype) -> TransformersDecoder:
        """Stream the weights in, and check the paged answers against the model's own."""
        from slipway_engine.models.hf.decoder import TransformersDecoder
        from slipway_engine.models.hf.probe import compare
        from slipway_engine.models.hf.registry import NAME

        names = {name: self._shards.slice_of(name) for name in self._shards.shapes}
        with self._named("cannot be loaded"), _one_tensor_at_a_time():
            model, report = self._class.from_pretrained(
                None, config=self._config, state_dict=names, dtype=dtype, attn_implementation=NAME,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
        self._check_report(report)
        model = _settled(model).to(device)
        decoder = TransformersDecoder(model, self._modules)
        with self._named("cannot be run"):
            compare(decoder, self.config)
        return decoder

    def _trace(self) -> tuple[Any, int, int]:
        from slipway_engine.models.hf.registry import NAME
        from slipway_engine.models.hf.trace import trace

        with torch.device("meta"):
            model = self._class._from_config(self._config, attn_implementation=NAME, dtype=torch.float32)
        model = _settled(model)
        if model.base_model is model:
            raise ModelUnsupported("it has no base model apart from its head")
        sizes = [tensor.numel() for tensor in (*model.parameters(), *model.buffers())]
        return trace(model, self._layers, self._max_position()), sum(sizes), max(sizes)

    @property
    def _layers(self) -> int:
        return int(self._config.num_hidden_layers)

    def _max_position(self) -> int:
        """Return the longest sequence. Where longrope would turn longer ones otherwise, it is the shorter."""
        name = next((name for name in _LENGTHS if self._fields.has(name)), _LENGTHS[0])
        length = self._fields.integer(name, 1, MAX_POSITIONS, 2048)
        for table in ("rope_parameters", "rope_scaling"):
            rope = self._fields.table(table)
            if rope.values.get("rope_type", rope.values.get("type")) == "longrope":
                name = "original_max_position_embeddings"
                default = self._fields.integer(name, 1, MAX_POSITIONS, length)
                length = min(length, rope.integer(name, 1, MAX_POSITIONS, default))
        return length

    def _check_bounds(self) -> None:
        """Refuse numbers that no model has before anything is built from them."""
        fields = self._fields
        for name, high in (
            ("num_hidden_layers", MAX_LAYERS), ("n_layer", MAX_LAYERS), ("num_layers", MAX_LAYERS),
            ("num_attention_heads", MAX_HEADS), ("n_head", MAX_HEADS), ("hidden_size", MAX_WIDTH),
            ("n_embd", MAX_WIDTH), ("intermediate_size", MAX_WIDTH), ("vocab_size", MAX_VOCAB),
            *((name, MAX_EXPERTS) for name in _EXPERTS),
        ):  # fmt: skip
            if fields.has(name):
                fields.integer(name, 0, high)
        layers = fields.integer("num_hidden_layers", 0, MAX_LAYERS, 1)
        if any(fields.integer(name, 0, MAX_EXPERTS, 0) * layers > MAX_ALL_EXPERTS for name in _EXPERTS):
            raise ModelCorrupt(f"{fields.path}: more than {MAX_ALL_EXPERTS} experts in all layers together.")
        if fields.has("quantization_config"):
            raise ModelUnsupported(
                f"{fields.path}: quantised weights of the architecture {self._architecture} are not "
                "supported; use the unquantised model."
            )

    def _check_report(self, report: dict[str, Any]) -> None:
        for key, what in (
            ("missing_keys", "lacks the tensor"),
            ("unexpected_keys", "holds a tensor that the model has no place for,"),
            ("mismatched_keys", "has another shape for the tensor"),
        ):
            if report[key]:
                name = sorted(map(str, report[key]))[0]
                raise ModelCorrupt(f"{self.path} {what} {name}; fetch the model again.")
        if report.get("error_msgs") or report.get("conversion_errors"):
            said = report.get("error_msgs") or report.get("conversion_errors")
            raise ModelCorrupt(f"{self.path} cannot be loaded: {said}")

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Say of which architecture it is that something goes wrong."""
        raised = _what_transformers_raises()
        start = f"{self.path}: the architecture {self._architecture} is not supported"
        try:
            yield
        except ModelUnsupported as error:
            raise ModelUnsupported(f"{start}: {error}.") from error
        except EngineError:
            raise
        except raised as error:
            said = " ".join(str(error).split())[:300]
            raise ModelUnsupported(f"{start}: it {what} ({type(error).__name__}: {said}).") from error


def _what_transformers_raises() -> tuple[type[Exception], ...]:
    """Return what its code may raise over a configuration or a checkpoint that it cannot use."""
    from huggingface_hub.errors import StrictDataclassError

    return (
        ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError,
        OSError, RuntimeError, StrictDataclassError, TypeError, ValueError,
    )  # fmt: skip


def _resolve(path: Path, architecture: str) -> tuple[Any, Any]:
    """Return transformers' configuration and class of a text model; neither runs code of the directory."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = AutoConfig.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelUnsupported("transformers has no text generation for it")
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    classes = found if isinstance(found, tuple) else (found,)
    chosen = next((each for each in classes if each.__name__ == architecture), None)
    if chosen is None:
        raise ModelUnsupported(f"of its kind, {', '.join(each.__name__ for each in classes)} is supported")
    if config.get_text_config() is not config:
        raise ModelUnsupported("it reads more than text")
    return config, chosen


def _settled(model: Any) -> Any:
    """Make a model one that only answers: rotations of texts that are never served are not looked for.

    They would follow the longest text of a batch; at the lengths that are served they change nothing.
    """
    for module in model.modules():
        if getattr(module, "rope_type", None) in ("dynamic", "longrope"):
            module.rope_type = "default"
    return model.eval().requires_grad_(False)


@contextmanager
def _one_tensor_at_a_time(name: str = "HF_DEACTIVATE_ASYNC_LOAD") -> Iterator[None]:
    """Keep transformers from reading ahead, which may hold the model twice where tensors are merged."""
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
