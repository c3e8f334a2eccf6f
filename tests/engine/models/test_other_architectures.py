"""transformers' own modelling behind our cache: its logits, its greedy tokens, and refusals by name."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.messages import NewRequest
from slipway_engine.errors import EngineError, InvalidArgument, ModelCorrupt, ModelUnsupported
from slipway_engine.loading.checkpoint import open_model
from slipway_engine.loading.transformers_model import TransformersModel
from slipway_engine.models.hf import probe
from slipway_engine.models.hf.decoder import TransformersDecoder
from slipway_engine.sampling import SamplingParams

MARGIN = 1e-3
SETTINGS: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.15, "eos_token_id": 5, "pad_token_id": 0, "bos_token_id": 6,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 12, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
SLIDING = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 7}
MODELS: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.3},
    "cohere2": SLIDING,
    "stablelm": {},
    "gpt_neox": {},
    "gpt2": {},
    "opt": {"word_embed_proj_dim": 64, "ffn_dim": 80},
    "starcoder2": {"sliding_window": 9},
    "glm4": {"head_dim": 24},
    "phi": {},
    "qwen2_moe": {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
    },
    "olmo": {},
    "olmo3": SLIDING,
    "nemotron": {},
    "smollm3": {},
    "ernie4_5": {"head_dim": 16},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "exaone4": SLIDING,
    "deepseek_v3": LATENT,
}  # fmt: skip
"""By transformers' model type; the latent ones have keys and values of different widths."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "0 of its 3 layers keep keys and values"),
    "bloom": ({}, "0 of its 3 layers keep keys and values"),
    "gptj": ({"rotary_dim": 8}, "cannot be built"),
    "gpt_oss": ({"num_local_experts": 4}, "attention sinks"),
    "bert": ({"is_decoder": False}, "the mask of .* is not supported"),
    "diffllama": ({}, "attends more than once"),
    "recurrent_gemma": ({}, "1 of its 3 layers keep keys and values"),
}


@pytest.fixture(autouse=True)
def no_bars() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def _save(kind: str, extra: dict[str, Any], directory: Path) -> Any:
    torch.manual_seed(sum(map(ord, kind)))
    config = AutoConfig.for_model(kind, **{**SETTINGS, **extra})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory)
    return model


def _core(directory: Path, **settings: Any) -> EngineCore:
    base: dict[str, Any] = {
        "device": "cpu", "dtype": "float32", "num_threads": 1, "kv_cache_bytes": 1 << 20, "max_model_len": 96,
        "max_batch_tokens": 16, "max_num_seqs": 4, "block_size": 4,
    }  # fmt: skip
    return EngineCore(EngineConfig(directory, **{**base, **settings}))


def _prompts(*sizes: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(7, 131, (size,), generator=generator).tolist() for size in sizes]


def _say(core: EngineCore, prompts: list[list[int]], tokens: int = 12) -> list[list[int]]:
    greedy = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    for name, prompt in enumerate(prompts):
        core.add_request(NewRequest(str(name), tuple(prompt), greedy, time.monotonic()))
    said: dict[str, list[int]] = {}
    while core.has_work():
        for output in core.step().outputs:
            assert output.error is None
            said.setdefault(output.request_id, []).extend(output.new_token_ids)
    core.check_idle()
    return [said[str(name)] for name in range(len(prompts))]


@torch.inference_mode()
def _agree(model: Any, prompts: list[list[int]], said: list[list[int]]) -> int:
    """Return how many tokens were compared: those where the model itself is sure enough."""
    compared = 0
    for prompt, tokens in zip(prompts, said, strict=True):
        logits = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        for token, row in zip(tokens, logits, strict=True):
            best = row.topk(2)
            if float(best.values[0] - best.values[1]) > MARGIN:
                assert token == int(best.indices[0])
                compared += 1
    return compared


@pytest.mark.parametrize("kind", MODELS)
def test_chunks_batches_hits_and_preemption_say_what_the_model_says(kind: str, tmp_path: Path) -> None:
    model = _save(kind, MODELS[kind], tmp_path)
    assert isinstance(open_model(tmp_path), TransformersModel)
    prompts = _prompts(3, 21, 34, 50)
    core = _core(tmp_path)
    said = _say(core, prompts)
    assert _agree(model, prompts, said) > 30
    again = _say(core, [prompts[3], prompts[3][:40] + prompts[0]])
    assert core.stats().prefix_cache_hits >= 80
    assert again[0] == said[3]
    assert _agree(model, [prompts[3][:40] + prompts[0]], again[1:]) > 5
    groups = len(core.memory.kv_windows)
    block = core._backend.needs(0).kv_bytes_per_token * 4 // groups
    room = block * (16 if groups == 1 else core._scheduler.blocks_for(35) + 2)
    tight, prompts = _core(tmp_path, kv_cache_bytes=room, prefix_caching=False), _prompts(12, 12, 12)
    assert _agree(model, prompts, _say(tight, prompts, 24)) > 40
    if None in open_model(tmp_path).config.layer_windows:  # windows alone give blocks back as they move on
        assert tight.stats().num_preemptions > 0


@pytest.mark.parametrize("kind", ["cohere", "gpt_neox", "deepseek_v3"])
@torch.inference_mode()
def test_the_same_logits_in_chunks(kind: str, tmp_path: Path) -> None:
    model = _save(kind, MODELS[kind], tmp_path)
    opened = open_model(tmp_path)
    assert isinstance(opened, TransformersModel)
    decoder = opened.load(torch.device("cpu"), torch.float32)
    (text,) = _prompts(33)
    (chunked,) = probe._chunked(decoder, opened.config, [torch.tensor(text)] * 2, torch.float32)[:1]
    whole = model(torch.tensor([text])).logits[0, : len(chunked)]
    torch.testing.assert_close(chunked, whole, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_attend_through_the_cache_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    extra, reason = REFUSED[kind]
    model = _save(kind, extra, tmp_path)
    with pytest.raises(ModelUnsupported, match=f"{type(model).__name__} is not supported: .*{reason}"):
        open_model(tmp_path)


def test_a_state_beside_attention_shows_in_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that mixes neighbours outside attention: the trace sees nothing of it, the probe does."""
    _save("olmo", {}, tmp_path)
    opened = open_model(tmp_path)
    assert isinstance(opened, TransformersModel)
    module = transformers.models.olmo.modeling_olmo.OlmoMLP
    plain = module.forward

    def mixing(self: Any, rows: torch.Tensor) -> torch.Tensor:
        return plain(self, rows + rows.roll(1, dims=1))

    monkeypatch.setattr(module, "forward", mixing)
    with pytest.raises(
        ModelUnsupported, match="OlmoForCausalLM is not supported: its logits in chunks differ"
    ):
        opened.load(torch.device("cpu"), torch.float32)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Attention in chunks hides what came before: neither causal nor a window."""
    _save("llama4_text", {"num_local_experts": 2, "attention_chunk_size": 8, "head_dim": 16}, tmp_path)
    with pytest.raises(ModelUnsupported, match="Llama4ForCausalLM is not supported"):
        open_model(tmp_path)


def test_keys_in_bytes_stay_near(tmp_path: Path) -> None:
    model = _save("cohere", {}, tmp_path)
    prompts = _prompts(21, 34)
    said = _say(_core(tmp_path, kv_cache_dtype="int8"), prompts)
    compared, same = 0, 0
    with torch.inference_mode():
        for prompt, tokens in zip(prompts, said, strict=True):
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            for token, row in zip(tokens, logits, strict=True):
                best = row.topk(2)
                if float(best.values[0] - best.values[1]) > 0.05 * float(row.std()):
                    compared, same = compared + 1, same + (token == int(best.indices[0]))
    assert compared > 10
    assert same == compared


def test_modes_of_our_own_kernels_are_refused(tmp_path: Path) -> None:
    _save("olmo", {}, tmp_path)
    for settings in ({"quantization": "int8"}, {"cpu_backend": "native"}):
        with pytest.raises(InvalidArgument, match="OlmoForCausalLM runs in transformers' own modelling"):
            _core(tmp_path, **settings)


def test_lengths_that_longrope_would_turn_otherwise_are_not_served(tmp_path: Path) -> None:
    """Its factors follow the longest text of a batch, which must not change the others."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0,
    }  # fmt: skip
    model = _save("olmo", {"rope_parameters": rope}, tmp_path)
    core = _core(tmp_path, max_model_len=None)
    assert core.ready.max_model_len == 64
    prompts = _prompts(20, 40)
    assert _agree(model, prompts, _say(core, prompts)) > 15


def _load(directory: Path) -> TransformersDecoder:
    opened = open_model(directory)
    assert isinstance(opened, TransformersModel)
    return opened.load(torch.device("cpu"), torch.float32)


def _damage(directory: Path, **changed: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"num_attention_heads": 3}, "cannot be|not supported"),
        ({"model_type": "no_such_type"}, "OlmoForCausalLM is not supported"),
        ({"model_type": "llama"}, "of its kind, LlamaForCausalLM"),
        ({"architectures": ["NoSuchForCausalLM"]}, "NoSuchForCausalLM is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "use the unquantised model"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_hidden_layers": 2}, "holds a tensor that the model has no place for"),
        ({"num_hidden_layers": 4}, "lacks the tensor"),
        ({"vocab_size": 140}, "another shape|cannot be loaded"),
    ],
)
def test_a_configuration_that_is_not_the_models(
    changed: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    _save("olmo", {}, tmp_path)
    _damage(tmp_path, **changed)
    with pytest.raises(EngineError, match=sentence) as refused:
        _load(tmp_path)
    assert refused.value.reason in ("ModelUnsupported", "ModelCorrupt")


@pytest.mark.filterwarnings("ignore")  # torch and transformers warn of odd values, which is their right
def test_mutations_of_a_configuration_end_in_a_named_error_or_a_model(tmp_path: Path) -> None:
    _save("olmo", {}, tmp_path)
    path, numbers = tmp_path / "config.json", random.Random(1)
    whole = json.loads(path.read_text())
    odd = [0, -1, 7, 10**6, 10**30, -1.5, float("nan"), "x", "", [], [1], {"a": 1}, None, True, [["a"]],
           {"rope_type": "yarn", "factor": -1}]  # fmt: skip
    refused = 0
    for _ in range(80):
        path.write_text(json.dumps({**whole, numbers.choice(sorted(whole)): numbers.choice(odd)}))
        try:
            _load(tmp_path)
        except EngineError:
            refused += 1
    assert 20 < refused < 80


def test_code_of_the_directory_is_never_run(tmp_path: Path) -> None:
    _save("olmo", {}, tmp_path)
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    _damage(
        tmp_path, model_type="mine", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.M"}
    )
    with pytest.raises(ModelUnsupported, match="OlmoForCausalLM is not supported"):
        open_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickles_are_never_read(tmp_path: Path) -> None:
    _save("olmo", {}, tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EngineError, match=r"model\.safetensors does not exist"):
        open_model(tmp_path)


def test_a_tensor_of_the_wrong_shape(tmp_path: Path) -> None:
    _save("olmo", {}, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name][:7].clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelCorrupt, match=r"another shape .*layers\.1\.mlp\.up_proj"):
        _load(tmp_path)
