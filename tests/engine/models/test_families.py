"""Every family against transformers, on small random weights: the same logits and the same greedy tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.loading.weights import load
from slipway_engine.models import attention, context, linear
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.decoder import Decoder

CPU = torch.device("cpu")
BLOCK = 4
TOLERANCE = 2e-4

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
YARN_TUNED = {
    **YARN,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "truncate": False,
    "mscale": 0.7,
    "mscale_all_dim": 1.2,
}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4,
    "short_factor": [1.0] * 6, "long_factor": [1.0, 1.1, 1.5, 2.0, 3.5, 4.0], "partial_rotary_factor": 0.75,
}  # fmt: skip
LONGROPE_LLAMA = {
    **LONGROPE, "partial_rotary_factor": 1.0, "short_factor": [1.0] * 8, "factor": 16.0,
    "long_factor": [1.0, 1.1, 1.5, 2.0, 3.5, 4.0, 5.0, 6.0],
}  # fmt: skip
GEMMA = {"head_dim": 24, "sliding_window": 7, "query_pre_attn_scalar": 20, "tie_word_embeddings": True}
GRANITE = {
    "embedding_multiplier": 6.0, "residual_multiplier": 0.3, "attention_multiplier": 0.11,
    "logits_scaling": 4.0,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "head_dim": 24}
DUAL = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "smollm2": ("Llama", {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72,
                          "tie_word_embeddings": True}),
    "llama-rope-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-rope-linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-mqa-wide-heads": ("Llama", {"num_key_value_heads": 1, "head_dim": 32}),
    "llama-mha": ("Llama", {"num_key_value_heads": 4}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 9}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 24}),
    "llama-rope-yarn": ("Llama", {"rope_parameters": YARN}),
    "llama-rope-yarn-tuned": ("Llama", {"rope_parameters": YARN_TUNED}),
    "llama-rope-dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4,
                                                         "factor": 4.0}}),
    "llama-rope-longrope": ("Llama", {"rope_parameters": LONGROPE_LLAMA}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma2-sharp-caps": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2-no-caps": ("Gemma2", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("Gemma3", {**GEMMA, "num_hidden_layers": 7}),
    "gemma3-linear": ("Gemma3", {**GEMMA, "rope_parameters": DUAL, "tie_word_embeddings": False,
                                 "layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
    "phi3": ("Phi3", {"pad_token_id": 0}),
    "phi3-window": ("Phi3", {"pad_token_id": 0, "sliding_window": 11}),
    "phi3-longrope-partial": ("Phi3", {"pad_token_id": 0, "rope_parameters": LONGROPE,
                                       "original_max_position_embeddings": 4}),
    "granite": ("Granite", GRANITE),
    "granite-biases": ("Granite", {**GRANITE, "attention_bias": True, "mlp_bias": True}),
    "olmo2": ("Olmo2", {}),
    "olmo2-mha": ("Olmo2", {"num_key_value_heads": 4}),
    "mixtral": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "mixtral-window": ("Mixtral", {"num_local_experts": 4, "sliding_window": 9}),
    "qwen3-moe": ("Qwen3Moe", EXPERTS),
    "qwen3-moe-normalised": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True}),
}  # fmt: skip


def _save(family: str, directory: Path) -> Any:
    """Save a random model of `family`; biases and norms are random too, so that none can be forgotten."""
    name, extra = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    settings: dict[str, Any] = {
        "vocab_size": 131, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "initializer_range": 0.15, "eos_token_id": 5, "tie_word_embeddings": False,
    }  # fmt: skip
    names = f"{name}TextConfig", f"{name}Config"
    config = next(getattr(transformers, name) for name in names if hasattr(transformers, name))(
        **{**settings, **extra}
    )
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory)
    return model


class Paged:
    """Our decoder with a cache of its own, fed in any chunks; blocks are scattered on purpose."""

    def __init__(self, directory: Path, backend: linear.LinearBackend, positions: int = 128) -> None:
        checkpoint = open_checkpoint(directory)
        self.config = checkpoint.config
        self.decoder: Decoder = load(checkpoint, backend, CPU, torch.float32, positions)
        shape = (40, BLOCK, self.config.kv_elements_per_token)
        caches = [torch.zeros(shape) for _ in range(self.config.num_layers)]
        self.attention = PagedAttention(self.config, caches)
        self.blocks = torch.randperm(39, generator=torch.Generator().manual_seed(1)).add(1).tolist()
        self.length = 0

    def feed(self, tokens: list[int]) -> torch.Tensor:
        span = context.Span(self.length, len(tokens), self.blocks)
        step = context.build([span], BLOCK, CPU, torch.float32)
        hidden = self.decoder.embed(torch.tensor(tokens))
        self.length += len(tokens)
        return self.decoder.logits(self.decoder.forward(hidden, step.positions, self.attention.bind(step)))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    return _save(request.param, tmp_path), tmp_path


@torch.inference_mode()
def test_same_logits_in_any_chunks(family: tuple[Any, Path]) -> None:
    model, directory = family
    tokens = torch.randint(0, 131, (50,), generator=torch.Generator().manual_seed(2)).tolist()
    reference = model(torch.tensor([tokens])).logits[0]
    for chunks in ([50], [20, 1, 1, 8, 20], [1] * 50):
        ours = Paged(directory, linear.best_for(CPU, torch.float32))
        parts, at = [], 0
        for size in chunks:
            parts.append(ours.feed(tokens[at : at + size]))
            at += size
        torch.testing.assert_close(torch.cat(parts), reference, atol=TOLERANCE, rtol=TOLERANCE)


@torch.inference_mode()
def test_same_greedy_tokens_where_no_tie(family: tuple[Any, Path]) -> None:
    model, directory = family
    ours, tokens = Paged(directory, linear.plain), [7, 3, 11, 90, 2]
    logits = ours.feed(tokens)[-1]
    for _ in range(40):
        reference = model(torch.tensor([tokens])).logits[0, -1]
        best = reference.topk(2)
        if float(best.values[0] - best.values[1]) > TOLERANCE:
            assert int(logits.argmax()) == int(best.indices[0])
        tokens.append(int(best.indices[0]))
        logits = ours.feed(tokens[-1:])[0]


@torch.inference_mode()
def test_longrope_served_short_turns_as_short_texts_do(tmp_path: Path) -> None:
    """Up to the trained length, a deployment that goes no further uses the short factors."""
    model = _save("phi3-longrope-partial", tmp_path)
    tokens = [7, 3, 11, 90]
    reference = model(torch.tensor([tokens])).logits[0]
    ours = Paged(tmp_path, linear.plain, positions=4).feed(tokens)
    torch.testing.assert_close(ours, reference, atol=TOLERANCE, rtol=TOLERANCE)
    long = Paged(tmp_path, linear.plain, positions=5).feed(tokens)
    assert float((long - reference).abs().max()) > 10 * TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("pairs", [1, 100, 1 << 19])
def test_capped_scores_in_parts_are_those_of_the_whole(
    pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _save("gemma2-sharp-caps", tmp_path)
    monkeypatch.setattr(attention, "SCORE_PAIRS", pairs)
    tokens = torch.randint(0, 131, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    ours = Paged(tmp_path, linear.plain)
    logits = torch.cat([ours.feed(tokens[:17]), ours.feed(tokens[17:])])
    torch.testing.assert_close(
        logits, model(torch.tensor([tokens])).logits[0], atol=TOLERANCE, rtol=TOLERANCE
    )


@torch.inference_mode()
@pytest.mark.parametrize("family", ["mistral-window", "gemma2", "gemma3", "qwen3-moe"], indirect=False)
def test_a_mixed_batch_gives_each_row_what_it_gets_alone(family: str, tmp_path: Path) -> None:
    """Decodes of very different lengths and two chunks in one step."""
    _save(family, tmp_path)
    generator = torch.Generator().manual_seed(4)
    plan = [(90, 1), (61, 1), (9, 1), (0, 1), (0, 12), (17, 15)]
    texts = [torch.randint(0, 131, (start + new,), generator=generator).tolist() for start, new in plan]
    alone = []
    for text, (start, new) in zip(texts, plan, strict=True):
        single = Paged(tmp_path, linear.plain)
        if start:
            single.feed(text[:start])
        alone.append(single.feed(text[start : start + new]))
    checkpoint = open_checkpoint(tmp_path)
    decoder = load(checkpoint, linear.plain, CPU, torch.float32, 128)
    caches = [torch.zeros(200, BLOCK, decoder.config.kv_elements_per_token) for _ in decoder.layers]
    paged = PagedAttention(decoder.config, caches)
    tables = [list(range(1 + 30 * row, 31 + 30 * row)) for row in range(len(plan))]

    def run(spans: list[context.Span], ids: list[int]) -> torch.Tensor:
        step = context.build(spans, BLOCK, CPU, torch.float32)
        hidden = decoder.embed(torch.tensor(ids))
        return decoder.logits(decoder.forward(hidden, step.positions, paged.bind(step)))

    for text, (start, _), table in zip(texts, plan, tables, strict=True):
        if start:
            run([context.Span(0, start, table)], text[:start])
    spans = [context.Span(start, new, table) for (start, new), table in zip(plan, tables, strict=True)]
    ids = [
        token for text, (start, new) in zip(texts, plan, strict=True) for token in text[start : start + new]
    ]
    torch.testing.assert_close(run(spans, ids), torch.cat(alone), atol=TOLERANCE, rtol=TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3", "olmo2", "granite", "phi3"], indirect=False)
def test_bfloat16_stays_near_float32(family: str, tmp_path: Path) -> None:
    model = _save(family, tmp_path)
    tokens = [7, 3, 11, 90, 2, 44, 8]
    reference = model(torch.tensor([tokens])).logits[0]
    decoder = load(open_checkpoint(tmp_path), linear.plain, CPU, torch.bfloat16, 128)
    caches = [
        torch.zeros(9, BLOCK, decoder.config.kv_elements_per_token, dtype=torch.bfloat16)
        for _ in decoder.layers
    ]
    paged = PagedAttention(decoder.config, caches)
    step = context.build([context.Span(0, 7, [3, 5])], BLOCK, CPU, torch.bfloat16)
    hidden = decoder.embed(torch.tensor(tokens))
    logits = decoder.logits(decoder.forward(hidden, step.positions, paged.bind(step)))
    error = (logits - reference).pow(2).mean().sqrt() / reference.pow(2).mean().sqrt()
    assert float(error) < 0.03
