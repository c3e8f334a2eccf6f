"""Models that everybody knows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.operator.planner.models import facts_of

from slipway_api.facts import ModelFacts


@dataclass(frozen=True)
class Known:
    """What tests start from."""

    llama_8b: ModelFacts
    llama_70b: ModelFacts
    small: ModelFacts


@pytest.fixture(scope="session")
def known() -> Known:
    return Known(
        llama_8b=facts_of(),
        llama_70b=facts_of(
            hidden_size=8192, intermediate_size=28672, num_attention_heads=64, num_hidden_layers=80
        ),
        small=facts_of(
            hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_hidden_layers=30,
            num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, tie_word_embeddings=True,
        ),
    )  # fmt: skip
