"""A GGUF file as a checkpoint: its tensors under Hugging Face's names, in Hugging Face's order and values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from slipway_engine.errors import ModelCorrupt
from slipway_engine.loading import layout
from slipway_engine.loading.dequant import read_into, read_part
from slipway_engine.loading.gguf import Bytes, GGUFFile, TensorInfo
from slipway_engine.loading.gguf_config import ROPE_TENSORS, family_of, read_config
from slipway_engine.loading.limits import MAX_EXPERTS
from slipway_engine.models.rope import halve

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj", "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_LAYER_NAME = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")
_PERMUTED = re.compile(r"\.self_attn\.[qk]_proj\.(weight|bias)$")


class GGUFCheckpoint:
    """An opened GGUF file. Quantised tensors are unpacked as they are read."""

    pooling = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = GGUFFile.open(path)
        self._family = family_of(self.file)[1]
        self.config = read_config(self.file)
        self._parts: dict[str, layout.Rows] = {}
        for name, info in self.file.tensors.items():
            if name not in ROPE_TENSORS:
                self._add(name, info)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor of the file."""
        return {name: rows.shape(self.file.tensors[rows.name].shape) for name, rows in self._parts.items()}

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Unpack the tensor `name` into `out`, rows of queries and keys in Hugging Face's order."""
        rows = self._parts[name]
        read_into(self.file, self.file.tensors[rows.name], out.view(-1), rows.start, rows.stop)
        if self._permuted(name):
            out.copy_(halve(out, self.config.head_dim))
        if name.endswith("norm.weight"):
            out.sub_(self.config.norm_offset)  # the converter added it

    def read_part(self, name: str, out: torch.Tensor, rows: slice, columns: slice) -> None:
        """Unpack a part of the tensor `name`; rows of queries and keys are whole heads."""
        place = self._parts[name]
        info = self.file.tensors[place.name]
        at = slice(rows.start, rows.stop)
        if len(info.shape) < 3:
            at = slice(place.start + rows.start, place.start + rows.stop)
        entry = place.start if len(info.shape) == 3 else 0
        read_part(self.file, info, out, entry, at, columns)
        if self._permuted(name):
            out.copy_(halve(out, self.config.head_dim))
        if name.endswith("norm.weight"):
            out.sub_(self.config.norm_offset)

    def block_of(self, name: str) -> int:
        """Return the elements of one block of `name`."""
        return self.file.tensors[self._parts[name].name].type.block

    def stored_type(self, name: str) -> str:
        """Return the type of `name` in the file."""
        return self.file.tensors[self._parts[name].name].type.name

    def stored(self, name: str) -> Bytes:
        """Return the blocks [rows, bytes] of `name`, rows of queries and keys in Hugging Face's order."""
        part = self._parts[name]
        info = self.file.tensors[part.name]
        rows = self.file.raw(info.name).reshape(info.shape[0], -1)[part.start : part.stop]
        if len(info.shape) == 3:
            rows = rows.reshape(info.shape[1], -1)
        if self._permuted(name):
            pairs = rows.reshape(-1, self.config.head_dim // 2, 2, rows.shape[1])
            rows = pairs.swapaxes(1, 2).reshape(rows.shape)
        return rows

    def _permuted(self, name: str) -> bool:
        return self._family.permuted and _PERMUTED.search(name) is not None

    def _add(self, name: str, info: TensorInfo) -> None:
        ours = _canonical(name, self._family.names)
        parts = layout.split(ours, name, info.shape[0], self.config)
        if len(info.shape) == 3:
            if ".mlp.experts." not in ours or info.shape[0] > MAX_EXPERTS:
                raise ModelCorrupt(f"{self.path}: the tensor {name!r} has three dimensions; fetch it again.")
            parts = layout.stacked(ours, name, info.shape[0])
        for part, rows in parts:
            if part in self._parts:
                raise ModelCorrupt(
                    f"{self.path} holds {name!r}, but {self._parts[part].name!r} stands for {part!r} already."
                )
            self._parts[part] = rows


def _canonical(name: str, names: Mapping[str, str]) -> str:
    """Return Hugging Face's name of a tensor; an unknown name stays, to be named when it is refused."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    match = _LAYER_NAME.fullmatch(name)
    known = {**_LAYER, **names}
    if match is None or match[2] not in known:
        return name
    return f"model.layers.{int(match[1])}.{known[match[2]]}.{match[3]}"
