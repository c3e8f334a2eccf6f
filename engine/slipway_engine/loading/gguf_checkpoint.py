"""A GGUF file as a checkpoint: its metadata as a configuration, its tensors under Hugging Face's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.loading.dequant import read_into, read_tensor
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.gguf import Bytes, GGUFFile
from slipway_engine.loading.hf_config import check_heads
from slipway_engine.loading.limits import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
)
from slipway_engine.models.config import DecoderConfig, RopeConfig
from slipway_engine.models.rope import halve

SUPPORTED = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
ROPE_FACTORS = "rope_freqs.weight"

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_LAYER_NAME = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")
_PERMUTED = re.compile(r"\.self_attn\.[qk]_proj\.(weight|bias)$")


class GGUFCheckpoint:
    """An opened GGUF file. Quantised tensors are unpacked as they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = GGUFFile.open(path)
        self._names = {_canonical(name): name for name in self.file.tensors if name != ROPE_FACTORS}
        self.config = read_config(self.file)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor of the file."""
        return {name: self.file.tensors[theirs].shape for name, theirs in self._names.items()}

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Unpack the tensor `name` into `out`, rows of queries and keys in Hugging Face's order."""
        read_into(self.file, self.file.tensors[self._names[name]], out.view(-1))
        if self.config.architecture == "LlamaForCausalLM" and _PERMUTED.search(name):
            out.copy_(halve(out, self.config.head_dim))

    def stored_type(self, name: str) -> str:
        """Return the type of `name` in the file."""
        return self.file.tensors[self._names[name]].type.name

    def stored(self, name: str) -> Bytes:
        """Return the blocks [rows, bytes] of `name`, rows of queries and keys in Hugging Face's order."""
        info = self.file.tensors[self._names[name]]
        rows = self.file.raw(info.name).reshape(info.shape[0], -1)
        if self.config.architecture == "LlamaForCausalLM" and _PERMUTED.search(name):
            pairs = rows.reshape(-1, self.config.head_dim // 2, 2, rows.shape[1])
            rows = pairs.swapaxes(1, 2).reshape(rows.shape)
        return rows


def read_config(file: GGUFFile) -> DecoderConfig:
    """Read a decoder's configuration out of the metadata, or refuse it by name."""
    general = Fields(file.path, file.metadata, "general.")
    name = general.text("architecture")
    if name not in SUPPORTED:
        raise ModelUnsupported(
            f"{file.path}: the architecture {name!r} is not supported; supported are {', '.join(SUPPORTED)}."
        )
    fields = Fields(file.path, file.metadata, f"{name}.")
    if fields.has("expert_count") and fields.integer("expert_count", 0, 1 << 16):
        raise ModelUnsupported(f"{file.path}: mixtures of experts are not supported.")
    heads = fields.integer("attention.head_count", 1, MAX_HEADS)
    hidden = fields.integer("embedding_length", 1, MAX_WIDTH)
    layers = fields.integer("block_count", 1, MAX_LAYERS)
    head_dim = fields.integer("attention.key_length", 2, MAX_HEAD_DIM, hidden // heads)
    config = DecoderConfig(
        architecture=SUPPORTED[name],
        vocab_size=_vocab_size(file, fields),
        hidden_size=hidden,
        intermediate_size=fields.integer("feed_forward_length", 1, MAX_WIDTH),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.integer("attention.head_count_kv", 1, heads, heads),
        head_dim=head_dim,
        max_position=fields.integer("context_length", 1, MAX_POSITIONS),
        rms_eps=fields.number("attention.layer_norm_rms_epsilon", 0, 1),
        rope=_rope(file, fields, head_dim),
        tied_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        out_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        windows=_windows(fields, layers),
        eos_token_ids=_eos(file),
        dtype=_dtype(file),
    )
    check_heads(file.path, config)
    if fields.integer("rope.dimension_count", 1, MAX_HEAD_DIM, head_dim) != head_dim:
        raise ModelUnsupported(f"{file.path}: a partial rotary embedding is not supported.")
    return config


def _canonical(name: str) -> str:
    """Return Hugging Face's name of a tensor; an unknown name stays, to be named when it is refused."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    match = _LAYER_NAME.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        return name
    return f"model.layers.{int(match[1])}.{_LAYER[match[2]]}.{match[3]}"


def _vocab_size(file: GGUFFile, fields: Fields) -> int:
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else None
    size = fields.integer("vocab_size", 1, MAX_VOCAB, rows)
    return rows if rows is not None and rows <= MAX_VOCAB else size


def _rope(file: GGUFFile, fields: Fields, head_dim: int) -> RopeConfig:
    theta = fields.number("rope.freq_base", 1, 1e12, 10000.0)
    if ROPE_FACTORS in file.tensors:
        return RopeConfig(theta, "factors", factors=_rope_factors(file, head_dim))
    kind = fields.text("rope.scaling.type", "none")
    if kind == "none":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, "linear", factor=fields.number("rope.scaling.factor", 1, 1e6))
    raise ModelUnsupported(f"{file.path}: rope scaling {kind!r} is not supported; none and linear are.")


def _rope_factors(file: GGUFFile, head_dim: int) -> tuple[float, ...]:
    if file.tensors[ROPE_FACTORS].shape != (head_dim // 2,):
        raise ModelCorrupt(f"{file.path}: the tensor {ROPE_FACTORS!r} must hold {head_dim // 2} numbers.")
    factors = read_tensor(file, ROPE_FACTORS, torch.float32)
    if not bool(torch.isfinite(factors).all()) or not bool((factors > 0).all()):
        raise ModelCorrupt(f"{file.path}: the tensor {ROPE_FACTORS!r} must hold positive numbers.")
    return tuple(factors.tolist())


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    window = fields.integer("attention.sliding_window", 0, MAX_POSITIONS, 0)
    return (window or None,) * layers


def _eos(file: GGUFFile) -> tuple[int, ...]:
    fields = Fields(file.path, file.metadata, "tokenizer.ggml.")
    found = [fields.integer(key, 0, MAX_VOCAB) for key in EOS_KEYS if fields.has(key)]
    return tuple(dict.fromkeys(found))


def _dtype(file: GGUFFile) -> torch.dtype:
    """Return the type of the matrices; unpacked blocks need float32 to keep their values."""
    kinds = {tensor.type.name for tensor in file.tensors.values() if len(tensor.shape) > 1}
    return {frozenset(["BF16"]): torch.bfloat16, frozenset(["F16"]): torch.float16}.get(
        frozenset(kinds), torch.float32
    )
