"""Each architecture's GGUF file equals the Hugging Face directory that it was made from.

The files are written with the names of the `gguf` package's own maps, and with what llama.cpp's converter
does to values: rows of queries and keys permuted, Gemma's norms stored with one added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from math import log, sqrt
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.loading.checkpoint import open_checkpoint

EPS = 2.0**-20  # exact in the file's float32
SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "rms_norm_eps": EPS, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 3.0, 4.0], "partial_rotary_factor": 0.75,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}


@dataclass(frozen=True)
class Case:
    """A Hugging Face model and what its GGUF file says beyond the sizes."""

    architecture: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, int | float | str | list[bool]] = field(default_factory=dict)
    tensors: dict[str, list[float]] = field(default_factory=dict)


def _gemma(architecture: str, model: str, settings: dict[str, Any], **metadata: Any) -> Case:
    common = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 7, "tie_word_embeddings": True}
    keys = {"attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 7}
    return Case(architecture, model, {**common, **settings}, {**keys, **metadata})


CASES = {
    "llama": Case("llama", "Llama"),
    "llama-yarn": Case(
        "llama",
        "Llama",
        {"rope_parameters": YARN},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16},
    ),
    "qwen2": Case("qwen2", "Qwen2", {"tie_word_embeddings": True}),
    "qwen3": Case("qwen3", "Qwen3", {"head_dim": 16}, {"attention.key_length": 16}),
    "gemma2": _gemma(
        "gemma2", "Gemma2", {}, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    ),
    "gemma3": _gemma("gemma3", "Gemma3", {"num_hidden_layers": 7}, **{"rope.freq_base": 1e6}),
    "gemma3-linear": _gemma(
        "gemma3",
        "Gemma3",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
        **{
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "attention.sliding_window_pattern": [False, True, False],
        },
    ),
    "mixtral": Case(
        "llama",
        "Mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None},
        {"expert_count": 5, "expert_used_count": 2, "rope.freq_base": 1e6},
    ),
    "qwen3moe": Case(
        "qwen3moe",
        "Qwen3Moe",
        {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 96, "norm_topk_prob": True,
         "head_dim": 16},
        {"expert_count": 6, "expert_used_count": 3, "expert_feed_forward_length": 96,
         "attention.key_length": 16},
    ),
    "olmo2": Case("olmo2", "Olmo2"),
    "phi3": Case(
        "phi3",
        "Phi3",
        {"pad_token_id": 0, "sliding_window": 9},
        {"attention.sliding_window": 9, "rope.dimension_count": 8},
    ),
    "phi3-longrope": Case(
        "phi3",
        "Phi3",
        {"pad_token_id": 0, "rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
        {
            "rope.dimension_count": 6,
            "rope.scaling.original_context_length": 16,
            "rope.scaling.attn_factor": sqrt(1 + log(4) / log(16)),
        },
        {"rope_factors_short": LONGROPE["short_factor"], "rope_factors_long": LONGROPE["long_factor"]},
    ),
    "granite": Case(
        "granite",
        "Granite",
        {"embedding_multiplier": 6.0, "residual_multiplier": 0.25, "attention_multiplier": 0.125,
         "logits_scaling": 4.0},
        {"embedding_scale": 6.0, "residual_scale": 0.25, "attention.scale": 0.125, "logit_scale": 4.0},
    ),
}  # fmt: skip


def _make(case: Case, directory: Path) -> Any:
    names = f"{case.model}TextConfig", f"{case.model}Config"
    config = next(getattr(transformers, name) for name in names if hasattr(transformers, name))
    torch.manual_seed(0)
    model = getattr(transformers, f"{case.model}ForCausalLM")(config(**{**SIZES, **case.settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory)
    return model


def _write(case: Case, model: Any, path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, case.architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_eos_token_id(2)
    add: dict[type, Callable[[str, Any], None]] = {
        int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array,
    }  # fmt: skip
    for key, value in case.metadata.items():
        add[type(value)](f"{case.architecture}.{key}", value)
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == case.architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for name, tensor in _apart(model.state_dict()):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        writer.add_tensor(theirs, _converted(case, name, tensor).contiguous().numpy())
    for name, factors in case.tensors.items():
        writer.add_tensor(f"{name}.weight", torch.tensor(factors).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _apart(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Experts' gates and ups apart, as their stacks are in GGUF; norms of all heads under its map's names."""
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            gate, up = tensor.chunk(2, dim=1)
            yield from ((f"{stem}gate_proj.weight", gate), (f"{stem}up_proj.weight", up))
        elif name.endswith("experts.down_proj"):
            yield f"{name}.weight", tensor
        else:
            yield name, tensor


def _converted(case: Case, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """What llama.cpp's converter does to a tensor's values."""
    if case.architecture.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
    if heads and case.architecture in ("llama", "granite"):
        return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor


@pytest.mark.parametrize("name", CASES)
def test_same_tensors_and_configuration_from_both_formats(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    _write(case, _make(case, tmp_path / "hf"), tmp_path / "model.gguf")
    file, directory = open_checkpoint(tmp_path / "model.gguf"), open_checkpoint(tmp_path / "hf")
    ours, theirs = asdict(file.config), asdict(directory.config)
    theirs["rope"]["magnitude"] = pytest.approx(theirs["rope"]["magnitude"])
    theirs["windows"] = directory.config.layer_windows
    assert ours == theirs
    assert set(file.shapes) >= set(directory.config.tensors())
    for tensor, shape in directory.config.tensors().items():
        found, expected = torch.empty(shape), torch.empty(shape)
        file.read_into(tensor, found)
        directory.read_into(tensor, expected)
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-7 if "norm" in tensor else 0)
        assert file.stored(tensor).nbytes == found.nbytes


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"expert_shared_count": 1}, r"llama\.expert_shared_count 1"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50"),
        ({"logit_scale": 8.0}, "logit_scale 8"),
        ({"attention.value_length": 4}, "value_length 4"),
        ({"rope.scaling.type": "longrope"}, "'longrope'.*both"),
    ],
)
def test_names_the_metadata_that_it_does_not_compute(
    metadata: dict[str, int | float | str | list[bool]], word: str, tmp_path: Path
) -> None:
    case = Case("llama", "Llama", {}, metadata)
    _write(case, _make(case, tmp_path / "hf"), tmp_path / "model.gguf")
    with pytest.raises(ModelUnsupported, match=word):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_fused_tensor_beside_its_parts_is_refused(tmp_path: Path) -> None:
    case = CASES["phi3"]
    model = _make(case, tmp_path / "hf")
    model.model.layers[1].self_attn.register_parameter("q_proj", torch.nn.Parameter(torch.ones(32, 32)))
    tensors = model.state_dict()
    tensors["model.layers.1.self_attn.q_proj.weight"] = tensors.pop("model.layers.1.self_attn.q_proj")
    model.state_dict = lambda: tensors
    _write(case, model, tmp_path / "model.gguf")
    with pytest.raises(ModelCorrupt, match=r"q_proj\.weight. already"):
        open_checkpoint(tmp_path / "model.gguf")
