"""Facts from a Hugging Face `config.json` and from safetensors headers or their index.

Field names differ between families; each look-up lists those that are in use. The count of parameters from a
configuration alone is that of a gated decoder; headers, where there are any, replace it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from slipway_api.facts import model
from slipway_api.facts.fields import Fields
from slipway_api.facts.model import FactsError, ModelFacts, TensorEntry, build
from slipway_api.facts.windows import sliding_windows

MAX_TENSORS: Final = 1 << 20
MAX_DIMS: Final = 8

DTYPE_BYTES: Final[dict[str, int]] = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_TORCH_DTYPES: Final = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "float8_e4m3fn": "F8_E4M3",
}  # fmt: skip
_PACKED: Final = {"I32": 32, "U32": 32, "U8": 8, "I8": 8}
"""Bits of the elements into which quantisers pack several weights."""
_WITHOUT_CACHE: Final = frozenset({"linear_attention", "mamba", "mamba2", "recurrent", "conv", "moe", "mlp"})


def from_hugging_face(
    config: Mapping[str, Any],
    tensors: Iterable[TensorEntry] | None = None,
    total_bytes: int | None = None,
) -> ModelFacts:
    """Return the facts of a parsed `config.json`.

    `tensors` come from the headers of all shards; else `total_bytes` from their index; with neither, bytes
    are computed. Raises FactsError.
    """
    outer = Fields(config)
    inner = outer.get("text_config")
    fields = Fields({**config, **inner}) if isinstance(inner, dict) else outer
    shape = _shape(outer, fields)
    dtype = _dtype(outer, fields)
    method, bits = _quantization(fields)
    computed, experts = _parameters(fields, shape)
    weights, parameters, estimated = _weights(tensors, total_bytes, computed, dtype, method, bits)
    return build(
        **shape,
        format="safetensors",
        dtype=dtype,
        quantization=method,
        weights=weights,
        parameters=parameters,
        expert_parameters=min(experts, parameters),
        estimated=estimated,
    )


def safetensors_tensors(header: Mapping[str, Any]) -> Iterator[TensorEntry]:
    """Yield the tensors of one parsed safetensors header. Raises FactsError."""
    if len(header) > MAX_TENSORS:
        raise FactsError(f"a safetensors header lists {len(header)} tensors, more than {MAX_TENSORS}.")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(dtype, str) or not _integers(shape, MAX_DIMS) or not _integers(offsets, 2):
            raise FactsError(f"the safetensors header's entry {name[:80]!r} has no dtype, shape and offsets.")
        assert isinstance(shape, list)
        assert isinstance(offsets, list)
        if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1] <= model.MAX_BYTES:
            raise FactsError(f"the safetensors header's entry {name[:80]!r} has offsets out of order.")
        yield TensorEntry(name, dtype, tuple(shape), offsets[1] - offsets[0])


def index_bytes(index: Mapping[str, Any]) -> int | None:
    """Return `metadata.total_size` of a parsed `model.safetensors.index.json`, None where it has none."""
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if size is None:
        return None
    if isinstance(size, float) and size.is_integer():  # some writers put 1.0e10
        size = int(size)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= model.MAX_BYTES:
        raise FactsError(f"the index's total_size is {str(size)[:40]}, but must be a number of bytes.")
    return size


def _integers(value: object, most: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= model.MAX_BYTES for v in value)
    )


def _architecture(outer: Fields) -> str:
    names = outer.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return outer.text("model_type")


def _shape(outer: Fields, fields: Fields) -> dict[str, Any]:
    architecture = _architecture(outer)
    layers = fields.integer("num_hidden_layers", "n_layer", "n_layers", "num_layers", high=model.MAX_LAYERS)
    hidden = fields.integer("hidden_size", "n_embd", "d_model", high=model.MAX_WIDTH)
    heads = fields.integer("num_attention_heads", "n_head", "n_heads", high=model.MAX_HEADS)
    # The configuration of Gemma leaves its head width out where it is the class's default.
    fallback = 256 if architecture.startswith("Gemma") else max(1, hidden // heads)
    head_dim = fields.integer("head_dim", high=model.MAX_HEAD_DIM, default=fallback)
    kv_heads = fields.integer("num_key_value_heads", "num_kv_heads", high=model.MAX_HEADS, default=heads)
    experts = fields.integer(
        "num_local_experts", "num_experts", "n_routed_experts", low=0, high=model.MAX_EXPERTS, default=0
    )
    latent = fields.get("kv_lora_rank") is not None
    kinds = fields.get("layer_types", "layers_block_type")
    kinds = kinds if isinstance(kinds, list) else ()
    idle = sum(isinstance(kind, str) and kind in _WITHOUT_CACHE for kind in kinds)
    inner = fields.integer(
        "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", high=model.MAX_WIDTH, default=4 * hidden
    )
    return {
        "architecture": architecture,
        "layers": layers,
        "hidden": hidden,
        "intermediate": fields.integer("moe_intermediate_size", high=model.MAX_WIDTH, default=inner)
        if experts
        else inner,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "kv_width": _latent_width(fields) if latent else 2 * kv_heads * head_dim,
        "kv_layers": max(1, layers - idle),
        "latent": latent,
        "vocab": fields.integer("vocab_size", high=model.MAX_VOCAB),
        "max_position": fields.integer(
            "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", high=model.MAX_POSITIONS,
            default=2048,
        ),
        "tied": fields.flag(
            "tie_word_embeddings", outer.flag("tie_word_embeddings", "Gemma" in architecture)
        ),
        "experts": experts,
        "experts_per_token": fields.integer(
            "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk",
            high=experts, default=min(2, experts),
        ) if experts else 0,
        "windows": sliding_windows(fields, architecture, layers),
    }  # fmt: skip


def _latent_width(fields: Fields) -> int:
    rank = fields.integer("kv_lora_rank", high=model.MAX_WIDTH)
    return rank + fields.integer("qk_rope_head_dim", high=model.MAX_HEAD_DIM, default=64)


def _dtype(outer: Fields, fields: Fields) -> str:
    name = fields.text("dtype", "torch_dtype", default=outer.text("dtype", "torch_dtype", default="float32"))
    return _TORCH_DTYPES.get(name.removeprefix("torch."), "F32")


def _quantization(fields: Fields) -> tuple[str | None, int]:
    """Return the method's name and the bits of a weight (0 where they are floats)."""
    found = fields.get("quantization_config")
    if not isinstance(found, dict):
        return None, 0
    settings = Fields(found)
    method = settings.text("quant_method", default="unknown").lower()
    if method in ("fp8", "fbgemm_fp8"):
        return method, 8
    if settings.get("load_in_4bit") is True or method == "mxfp4":
        return method, 4
    return method, settings.integer("bits", "w_bit", high=16, default=_compressed_bits(found) or 8)


def _compressed_bits(found: Mapping[str, Any]) -> int:
    """Return `num_bits` of the first group of a `compressed-tensors` checkpoint, 0 where there is none."""
    groups = found.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    bits = weights.get("num_bits") if isinstance(weights, dict) else None
    return bits if isinstance(bits, int) and 1 <= bits <= 16 else 0


def _weights(
    tensors: Iterable[TensorEntry] | None,
    total_bytes: int | None,
    computed: int,
    dtype: str,
    method: str | None,
    bits: int,
) -> tuple[dict[str, int], int, bool]:
    """Return bytes by dtype, parameters, and whether they were computed."""
    if tensors is not None:
        sizes: dict[str, int] = {}
        parameters = 0
        for tensor in tensors:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
            per_element = _PACKED.get(tensor.dtype, 0) // bits if method is not None and bits else 0
            parameters += tensor.elements * max(1, per_element)
        if not parameters:
            raise FactsError("the safetensors headers hold no tensor.")
        return sizes, parameters, False
    itemsize = DTYPE_BYTES[dtype]
    size = total_bytes or (computed * bits // 8 if bits else computed * itemsize)
    parameters = size // itemsize if total_bytes and not bits else computed
    return {dtype if not bits else f"{method}": size}, max(1, parameters), True


def _parameters(fields: Fields, shape: Mapping[str, Any]) -> tuple[int, int]:
    """Return the parameters that the configuration describes, and those of all experts."""
    hidden, layers, experts = shape["hidden"], shape["layers"], shape["experts"]
    dense_layers, expert_total, shared = layers, 0, 0
    dense = fields.integer(
        "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", high=model.MAX_WIDTH, default=4 * hidden
    )
    if experts:
        first = fields.integer("first_k_dense_replace", low=0, high=model.MAX_LAYERS, default=0)
        dense_layers = min(first, layers)
        expert_total = (layers - dense_layers) * experts * 3 * hidden * shape["intermediate"]
        count = fields.integer("n_shared_experts", low=0, high=model.MAX_EXPERTS, default=0)
        shared = (layers - dense_layers) * (count * 3 * hidden * shape["intermediate"] + hidden * experts)
    mlp = dense_layers * 3 * hidden * dense + shared + expert_total
    embedding = shape["vocab"] * hidden * (1 if shape["tied"] else 2)
    total = embedding + layers * (_attention(fields, shape) + 2 * hidden) + hidden + mlp
    return total, expert_total


def _attention(fields: Fields, shape: Mapping[str, Any]) -> int:
    hidden, heads = shape["hidden"], shape["heads"]
    if not shape["latent"]:
        return int(2 * hidden * shape["head_dim"] * (heads + shape["kv_heads"]))
    rope = fields.integer("qk_rope_head_dim", high=model.MAX_HEAD_DIM, default=64)
    nope = fields.integer("qk_nope_head_dim", high=model.MAX_HEAD_DIM, default=128)
    value = fields.integer("v_head_dim", high=model.MAX_HEAD_DIM, default=128)
    rank = shape["kv_width"] - rope
    low = fields.integer("q_lora_rank", low=0, high=model.MAX_WIDTH, default=0)
    query = (hidden + heads * (nope + rope)) * low if low else hidden * heads * (nope + rope)
    return int(query + hidden * shape["kv_width"] + rank * heads * (nope + value) + heads * value * hidden)
