"""Quality figures: known distributions give known values, and a model's modes lie as far apart as they do."""

from __future__ import annotations

import random
from dataclasses import replace
from math import exp, inf, log
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slipway_engine.config import EngineConfig
from slipway_engine.core.scoring import CHUNK, Scorer, reference_of
from slipway_engine.evaluation import Comparison, Quality, Yardstick, windows
from slipway_engine.native import library


def compared(ours: torch.Tensor, theirs: torch.Tensor, targets: list[int]) -> Quality:
    comparison = Comparison()
    comparison.add(ours, Yardstick.of(theirs), targets)
    return comparison.result()


def test_known_distributions_give_known_figures():
    reference = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log() + 3  # a shift changes nothing
    ours = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]).log() - 1
    found = compared(ours, reference, [0, 2])
    first = 0.5 * log(2) + 0.25 * log(0.5)
    assert found.tokens == 2
    assert found.kl == pytest.approx(first / 2)
    assert found.kl_max == found.kl_p99 == pytest.approx(first)
    assert found.kl_error == pytest.approx(first / 2)  # of two values, a and 0
    assert found.perplexity == pytest.approx(exp(-(log(0.25) + log(0.8)) / 2))
    assert found.reference_perplexity == pytest.approx(exp(-(log(0.5) + log(0.8)) / 2))
    assert found.top1_agreement == 0.5


def test_the_same_logits_differ_by_nothing_at_all():
    logits = torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
    found = compared(logits, logits.clone(), [7] * 100)
    assert (found.kl, found.kl_max, found.top1_agreement) == (0, 0, 1)
    assert found.perplexity == found.reference_perplexity


@pytest.mark.parametrize("distance", [1e-5, 1e-3, 1.0, 30.0])
def test_the_divergence_is_precise_at_any_distance(distance):
    """float64 by the definition is the judge; it loses all its digits last."""
    generator = torch.Generator().manual_seed(2)
    theirs = 8 * torch.randn(64, 3000, generator=generator)
    ours = theirs + distance * torch.randn(64, 3000, generator=generator)
    p, q = theirs.double().log_softmax(-1), ours.double().log_softmax(-1)
    found = compared(ours, theirs, [5] * 64)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=2e-2, abs=1e-12)
    assert log(found.perplexity) == pytest.approx(float(-q[:, 5].mean()), rel=1e-6)
    assert log(found.reference_perplexity) == pytest.approx(float(-p[:, 5].mean()), rel=1e-6)


def test_portions_add_up():
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (torch.randn(150, 20, generator=generator) for _ in range(2))
    targets = [number % 20 for number in range(150)]
    comparison = Comparison()
    for start in range(0, 150, 11):
        rows = slice(start, start + 11)
        comparison.add(ours[rows], Yardstick.of(theirs[rows]), targets[rows])
    parts, whole = comparison.result(), compared(ours, theirs, targets)
    assert parts.kl == pytest.approx(whole.kl)
    assert parts.perplexity == pytest.approx(whole.perplexity)
    assert parts.top1_agreement == whole.top1_agreement


@pytest.mark.parametrize("value", [inf, -inf, float("nan")])
def test_a_broken_row_is_refused_and_not_averaged(value):
    good, bad = torch.zeros(2, 4), torch.zeros(2, 4)
    bad[1, 2] = value
    for ours, theirs in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="finite"):
            compared(ours, theirs, [0, 0])


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no position"):
        Comparison().result()


@given(st.lists(st.integers(2, 9), max_size=60), st.integers(3, 12), st.lists(st.just(1), max_size=1))
def test_windows_hold_the_text_once_each_behind_its_prefix(tokens, length, prefix):
    cut = list(windows(tokens, length, prefix))
    assert all(2 <= len(window) <= length and window[: len(prefix)] == prefix for window in cut)
    read = [token for window in cut for token in window[len(prefix) :]]
    assert read == tokens[: len(read)]
    assert len(tokens) - len(read) <= (0 if prefix else 1)


@pytest.fixture(scope="module")
def text() -> list[int]:
    draw = random.Random(5)
    return [draw.randrange(199) for _ in range(2 * CHUNK + 23)]


def all_logits(scorer: Scorer, text: list[int]) -> torch.Tensor:
    return torch.cat([rows.clone() for rows in scorer.logits(text)])


def test_the_reference_is_what_transformers_computes(tiny: Path, text: list[int]):
    from transformers import LlamaForCausalLM

    with torch.inference_mode():
        expected = LlamaForCausalLM.from_pretrained(tiny)(torch.tensor([text])).logits[0]
    found = all_logits(Scorer(reference_of(EngineConfig(tiny)), len(text)), text)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not library.available(), reason="the native library is not built here")
def test_modes_lie_as_far_from_the_reference_as_they_compute(tiny: Path, text: list[int]):
    config = EngineConfig(tiny, cpu_backend="native", num_threads=1)
    reference = all_logits(Scorer(reference_of(config), len(text)), text)

    def kl(**settings: str) -> float:
        logits = all_logits(Scorer(replace(config, **settings), len(text)), text)
        return compared(logits[:-1], reference[:-1], text[1:]).kl

    exact = kl(quantization="none", kv_cache_dtype="float32")
    half = kl(quantization="none", kv_cache_dtype="float16")
    eight = kl(quantization="int8", kv_cache_dtype="float16")
    assert 0 <= exact < 1e-9 < half < eight < 0.1


def test_windows_that_follow_each_other_do_not_see_each_other(tiny: Path, text: list[int]):
    scorer = Scorer(reference_of(EngineConfig(tiny)), len(text))
    first = all_logits(scorer, text)
    all_logits(scorer, text[::-1])
    assert torch.equal(all_logits(scorer, text), first)
