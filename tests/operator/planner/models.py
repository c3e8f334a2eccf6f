"""Models and configurations: known ones, and any that could be."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from slipway_api.catalogue import CATALOGUE
from slipway_api.facts import ModelFacts, from_hugging_face
from slipway_operator.plan.footprint import Wanted

GIB = 1 << 30


def facts_of(**changes: Any) -> ModelFacts:
    """Llama 3.1 8B, or what differs from it."""
    return from_hugging_face(
        {
            "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 131072, "torch_dtype": "bfloat16", **changes,
        }
    )  # fmt: skip


def wanted_of(kind: str = "nvidia-l4-24gb", **changes: Any) -> Wanted:
    return Wanted(CATALOGUE[kind], **changes)


@st.composite
def any_facts(draw: st.DrawFn) -> ModelFacts:
    kv_heads = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    experts = draw(st.sampled_from([0, 0, 8, 64]))
    config: dict[str, Any] = {
        "architectures": ["AnyForCausalLM"],
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * draw(st.sampled_from([1, 2, 3, 7, 8])),
        "head_dim": draw(st.sampled_from([64, 80, 128])),
        "hidden_size": draw(st.sampled_from([256, 1024, 2880, 4096, 8192])),
        "intermediate_size": draw(st.sampled_from([512, 1000, 11008, 28672])),
        "num_hidden_layers": draw(st.integers(1, 96)),
        "vocab_size": draw(st.sampled_from([1000, 32000, 256000])),
        "max_position_embeddings": draw(st.sampled_from([17, 2048, 32768, 1048576])),
        "tie_word_embeddings": draw(st.booleans()),
        "torch_dtype": draw(st.sampled_from(["bfloat16", "float16", "float32"])),
    }
    if experts:
        config |= {"num_local_experts": experts, "num_experts_per_tok": draw(st.integers(1, 8))}
    if draw(st.booleans()) and not experts:
        config |= {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
    return from_hugging_face(config)


@st.composite
def any_wanted(draw: st.DrawFn) -> Wanted:
    kind = CATALOGUE[draw(st.sampled_from(sorted(CATALOGUE)))]
    return Wanted(
        kind,
        mig=draw(st.sampled_from([None, None, *kind.mig])),
        memory=draw(st.integers(1, 512)) * GIB,
        cores=draw(st.sampled_from([0.5, 2, 32])),
        tensor=draw(st.sampled_from(["auto", 1, 2, 3, 4, 8, 64])),
        pipeline=draw(st.sampled_from([1, 1, 2, 3, 16])),
        weights=draw(st.sampled_from(["auto", "none", "fp8", "int8", "int4"])),
        kv_cache=draw(st.sampled_from(["auto", "none", "fp8", "int8", "int4"])),
        max_model_len=draw(st.none() | st.integers(16, 200_000)),
        max_num_seqs=draw(st.sampled_from([1, 64, 512])),
        max_batch_tokens=draw(st.sampled_from([16, 512, 16384])),
        memory_percent=draw(st.integers(10, 100)),
    )
