"""A `config.json` in Hugging Face layout, read into a `DecoderConfig` or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slipway_engine.errors import ModelAccessDenied, ModelCorrupt, ModelNotFound, ModelUnsupported
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.hf_families import FAMILIES, FEATURES, Family
from slipway_engine.loading.hf_rope import read_rope
from slipway_engine.loading.limits import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_JSON,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
)
from slipway_engine.models.config import DecoderConfig

SUPPORTED = tuple(FAMILIES)
LAYER_TYPES = ("full_attention", "sliding_attention")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of bounded size."""
    value = _read(path)
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path} holds no JSON object; fetch the model again.")
    return value


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a JSON file that lists them."""
    value = _read(path)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ModelCorrupt(f"{path} holds no list of JSON objects; fetch the model again.")
    return value


def _read(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelCorrupt(f"{path} is larger than {MAX_JSON} bytes, too large for a configuration.")
        value: object = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} does not exist; the directory is no Hugging Face model.") from error
    except PermissionError as error:
        raise ModelAccessDenied(f"{path} may not be read by this user; change its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path} is not JSON: {error}; fetch the model again.") from error
    return value


def read_config(directory: Path, *, bare: bool = False) -> DecoderConfig:
    """Read `config.json`, and the end-of-sequence ids of `generation_config.json` where there is one.

    A `bare` model has no head of its own: an embedding model, which may be named by its base class.
    """
    path = directory / "config.json"
    fields = Fields(path, read_json(path))
    architecture = _architecture(fields, bare)
    family = FAMILIES[architecture]
    _refuse_unknown_features(fields, architecture, family)
    layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    head_dim = fields.integer("head_dim", 2, MAX_HEAD_DIM, _head_dim(architecture, hidden, heads))
    max_position = fields.integer("max_position_embeddings", 1, MAX_POSITIONS, 2048)
    rope, local_rope = read_rope(fields, family, head_dim, max_position)
    biased = fields.flag("attention_bias", False)
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, MAX_WIDTH),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", 1, heads, heads),
        head_dim=head_dim,
        max_position=max_position,
        rms_eps=fields.number("rms_norm_eps", 0, 1, family.eps),
        rope=rope,
        local_rope=local_rope,
        tied_embeddings=bare or fields.flag("tie_word_embeddings", family.tied),
        qkv_bias=family.qkv_bias or biased,
        out_bias=biased and not family.qkv_bias,
        mlp_bias=fields.flag("mlp_bias", False),
        windows=_windows(fields, family, layers),
        eos_token_ids=read_eos(fields, directory),
        dtype=read_dtype(fields),
    )
    config = replace(config, **family.extras(fields, config))
    if rope.kind == "yarn":
        # Files may leave the trained length here, and say by the factor how far the model reaches.
        reach = min(MAX_POSITIONS, int(rope.factor * rope.original_max_position))
        config = replace(config, max_position=max(max_position, reach))
    check_heads(path, config)
    return config


def _head_dim(architecture: str, hidden: int, heads: int) -> int:
    """Return what an absent `head_dim` means; a head of no element is refused later."""
    return 256 if architecture.startswith("Gemma") else hidden // heads


def check_heads(path: Path, config: DecoderConfig) -> None:
    """Refuse head counts that do not divide, and odd head widths."""
    if config.num_heads % config.num_kv_heads:
        raise ModelCorrupt(
            f"{path}: {config.num_heads} query heads cannot share {config.num_kv_heads} key heads evenly."
        )
    if config.head_dim % 2:
        raise ModelCorrupt(f"{path}: a head of {config.head_dim} elements has no pairs to rotate.")


def architectures(fields: Fields) -> list[str]:
    """Return the names in `architectures`, at least one."""
    names = fields.values.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise fields.corrupt("architectures", "a list of one name")
    return names


def known(names: list[str]) -> str | None:
    """Return the architecture that our decoder runs, by its name with a head, if there is one."""
    for name in names:
        with_head = name.removesuffix("Model") + "ForCausalLM" if name.endswith("Model") else name
        if with_head in SUPPORTED:
            return with_head
    return None


def _architecture(fields: Fields, bare: bool) -> str:
    names = architectures(fields)
    found = known(names)
    if found is not None and (bare or found in names):
        return found
    raise ModelUnsupported(
        f"{fields.path}: the architecture {names[0]} is not supported; supported are {', '.join(SUPPORTED)}."
    )


def _refuse_unknown_features(fields: Fields, architecture: str, family: Family) -> None:
    name = family.activation_field
    activation = fields.text(name, fields.text("hidden_act", family.activation))
    known = ("silu", "swish") if family.activation == "silu" else (family.activation,)
    if activation not in known:
        raise ModelUnsupported(
            f"{fields.path}: {name} {activation!r} is not supported for {architecture}; "
            f"{family.activation} is."
        )
    if fields.has("quantization_config"):
        method = fields.table("quantization_config").values.get("quant_method")
        raise ModelUnsupported(
            f"{fields.path}: weights quantised by {method!r} are not supported; "
            "use the unquantised model or a GGUF file."
        )
    for name, neutral in FEATURES.items():
        value = fields.values.get(name)
        if name in family.reads or value is None or (neutral is not None and value == neutral):
            continue
        ways = "null is" if neutral is None else f"{json.dumps(neutral)} and null are"
        raise ModelUnsupported(
            f"{fields.path}: {name} {value!r} is not supported for {architecture}; {ways}."
        )


def _windows(fields: Fields, family: Family, layers: int) -> tuple[int | None, ...]:
    """Return each layer's sliding window; `layer_types` decides where it is given."""
    kinds = _layer_types(fields, layers)
    if family.windows == "none":
        if kinds and "sliding_attention" in kinds:
            raise ModelUnsupported(
                f"{fields.path}: layer_types 'sliding_attention' is not supported for this architecture; "
                "full_attention is."
            )
        return (None,) * layers
    window = _window(fields, family)
    if window is None:
        return (None,) * layers
    if family.windows == "all":
        return (window,) * layers
    slides = [kind == "sliding_attention" for kind in kinds] or _slides(fields, family, layers)
    return tuple(window if sliding else None for sliding in slides)


def _window(fields: Fields, family: Family) -> int | None:
    """Return the window; null means none, an absent field the architecture's own."""
    if family.gated and not fields.flag("use_sliding_window", False):
        return None
    if "sliding_window" not in fields.values:
        return family.default_window
    return fields.integer("sliding_window", 1, MAX_POSITIONS) if fields.has("sliding_window") else None


def _slides(fields: Fields, family: Family, layers: int) -> list[bool]:
    if family.windows == "after":
        first = fields.integer("max_window_layers", 0, MAX_LAYERS, 28)
        return [layer >= first for layer in range(layers)]
    pattern = fields.integer("sliding_window_pattern", 1, MAX_LAYERS, family.pattern)
    return [bool((layer + 1) % pattern) for layer in range(layers)]


def _layer_types(fields: Fields, layers: int) -> list[str]:
    """Return `layer_types`, empty where it is absent."""
    kinds = fields.values.get("layer_types")
    if kinds is None:
        return []
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not all(isinstance(kind, str) for kind in kinds)
    ):
        raise fields.corrupt("layer_types", f"a list of {layers} names")
    for kind in kinds:
        if kind not in LAYER_TYPES:
            raise ModelUnsupported(
                f"{fields.path}: layer_types {kind!r} is not supported; {' and '.join(LAYER_TYPES)} are."
            )
    return kinds


def read_eos(fields: Fields, directory: Path) -> tuple[int, ...]:
    """Return the tokens that end a sequence."""
    ids = fields.integers("eos_token_id", 0, MAX_VOCAB)
    path = directory / "generation_config.json"
    if path.exists():
        ids += Fields(path, read_json(path)).integers("eos_token_id", 0, MAX_VOCAB)
    return tuple(dict.fromkeys(ids))


def read_dtype(fields: Fields) -> torch.dtype:
    """Return the type of the checkpoint."""
    name = fields.text("dtype", fields.text("torch_dtype", "float32")).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelUnsupported(
            f"{fields.path}: the dtype {name!r} is not supported; {', '.join(_DTYPES)} are."
        )
    return _DTYPES[name]
