"""What fits, what does not, and what is proposed instead."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.planner import models

from slipway_api.catalogue import CATALOGUE
from slipway_operator.plan.alternatives import Abilities, alternatives
from slipway_operator.plan.footprint import Fit, Misfit, fit

GIB = models.GIB
wanted_of = models.wanted_of


def test_what_people_know_to_fit_fits_and_what_they_know_not_to_does_not(known):
    for kind, facts, fits in (
        ("nvidia-t4-16gb", known.llama_8b, False),
        ("nvidia-l4-24gb", known.llama_8b, True),
        ("nvidia-h100-80gb", known.llama_70b, False),
        ("nvidia-h200-141gb", known.llama_70b, False),
        ("nvidia-b200-180gb", known.llama_70b, True),
        ("cpu", known.small, True),
    ):
        wanted = wanted_of(kind, memory=2 * GIB, max_model_len=8192)
        assert isinstance(fit(facts, wanted), Fit) is fits, kind


def test_auto_is_the_least_degree_that_fits(known):
    found = fit(known.llama_70b, wanted_of("nvidia-h100-80gb", tensor="auto", max_model_len=8192))
    assert isinstance(found, Fit)
    assert found.placement.tensor == 2
    assert isinstance(
        fit(known.llama_70b, wanted_of("nvidia-h100-80gb", tensor="auto"), most_tensor=1), Misfit
    )


def test_a_refusal_holds_the_arithmetic(known):
    refused = fit(known.llama_8b, wanted_of("nvidia-t4-16gb", max_model_len=8192))
    assert isinstance(refused, Misfit)
    assert "15317 MiB weights" in refused.message
    assert "of 15360 MiB are usable on nvidia-t4-16gb" in refused.message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tensor": 3}, "parallelism.tensor 3 is not possible"),
        ({"mig": "1g.10gb"}, "has no MIG profile 1g.10gb"),
        ({"max_model_len": 200_000}, "beyond the model's 131072 positions"),
    ],
)
def test_what_is_not_a_matter_of_memory_is_said_too(known, change, sentence):
    refused = fit(known.llama_8b, wanted_of(**change))
    assert isinstance(refused, Misfit)
    assert sentence in refused.message


def test_the_nearest_three_are_of_three_sorts(known):
    wanted = wanted_of("nvidia-l4-24gb", max_model_len=131_072)
    assert isinstance(fit(known.llama_8b, wanted), Misfit)
    found = alternatives(known.llama_8b, wanted, CATALOGUE, Abilities())
    changed = [[path for path, _ in one.changes] for one in found]
    assert changed[0] == ["engine.maxModelLen"]
    assert len(found) == 3
    assert len({tuple(paths) for paths in changed}) == 3
    assert all("of KV cache" in one.sentence() for one in found)


def test_only_what_the_engine_can_do_is_proposed(known):
    wanted = wanted_of("nvidia-h100-80gb", max_model_len=8192)
    found = alternatives(known.llama_70b, wanted, CATALOGUE, Abilities(tensor=1, weights=(), kv_cache=()))
    assert found
    paths = {path for one in found for path, _ in one.changes}
    assert not paths & {"parallelism.tensor", "quantization.weights", "quantization.kvCache"}


def test_a_container_gets_the_memory_it_needs_proposed(known):
    wanted = wanted_of("cpu", memory=1 * GIB, max_model_len=8192)
    found = alternatives(known.small, wanted, CATALOGUE, Abilities())
    assert "podTemplate.resources.limits.memory" in {path for one in found for path, _ in one.changes}


@settings(max_examples=300, deadline=None)
@given(facts=models.any_facts(), wanted=models.any_wanted())
def test_alternatives_fit_when_they_are_planned_again(facts, wanted):
    first = fit(facts, wanted)
    if isinstance(first, Fit):
        assert first.ledger.max_model_len <= facts.max_position
        assert first.ledger.usable >= first.ledger.weights + first.ledger.kv_cache
        return
    proposed = alternatives(facts, wanted, CATALOGUE, Abilities())
    for one in proposed:
        assert not any(set(other.changes) < set(one.changes) for other in proposed)
    for one in proposed:
        assert one.changes
        again = fit(facts, one.found.wanted)
        assert isinstance(again, Fit)
        assert again == one.found
        assert again.max_sequences >= 1


@settings(max_examples=300, deadline=None)
@given(facts=models.any_facts(), wanted=models.any_wanted(), more=st.integers(1, 200_000))
def test_more_memory_never_fits_less(facts, wanted, more):
    first = fit(facts, wanted)
    if isinstance(first, Misfit):
        return
    kind = wanted.accelerator
    larger = kind.model_copy(update={"memory_mib": kind.memory_mib + more}) if kind.resource else kind
    second = fit(facts, replace(wanted, accelerator=larger, memory=wanted.memory + (more << 20)))
    assert isinstance(second, Fit)
    assert second.placement.accelerators <= first.placement.accelerators
    if second.placement == first.placement:
        assert second.ledger.max_model_len >= first.ledger.max_model_len
        if second.ledger.max_model_len == first.ledger.max_model_len:
            assert second.ledger.max_tokens >= first.ledger.max_tokens
