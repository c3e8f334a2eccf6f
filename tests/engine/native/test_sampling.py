"""Native draws against the torch sampler: the same noise, the same rules, the same tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slipway_engine.core import sampler
from slipway_engine.core.request import Request
from slipway_engine.native import library, sampling
from slipway_engine.sampling import SamplingParams

KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 4.0},
    "top-k": {"top_k": 7},
    "top-k 1": {"top_k": 1},
    "wide top-k": {"top_k": 700},
    "top-p": {"top_p": 0.8},
    "narrow top-p": {"top_p": 0.01},
    "wide top-p": {"top_p": 0.9999, "temperature": 3.0},
    "min-p": {"min_p": 0.05},
    "all": {"top_k": 40, "top_p": 0.7, "min_p": 0.01, "temperature": 0.7},
}


def _request(stream: int, **fields: Any) -> Request:
    params = SamplingParams(max_tokens=100, **fields)
    return Request(
        id="r", tokens=[0], prompt_length=1, limit=9, sampling=params, stop_ids=frozenset(), key=(0, 0.0, 0),
        chain=[b""], stream=stream,
    )  # fmt: skip


def _both(
    pool: library.Pool, isa: str, logits: torch.Tensor, requests: list[Request]
) -> tuple[list[int], list[int]]:
    rows = list(range(len(requests)))
    likeliest = logits.argmax(dim=1).tolist()
    found = sampling.draw(pool, isa, logits, rows, likeliest, requests)
    return found, sampler.draw(logits.clone(), rows, likeliest, requests)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [17, 1000, 5003, 20000])
@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_draws_what_torch_draws(pool: library.Pool, isa: str, kind: str, width: int, scale: float) -> None:
    many = 300
    logits = torch.randn(many, width, generator=torch.Generator().manual_seed(width)) * scale
    found, expected = _both(pool, isa, logits, [_request(stream, **KINDS[kind]) for stream in range(many)])
    # Logarithms differ in their last bit, which may decide between two that are as good as equal.
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 1


def test_forbidden_tokens_are_never_drawn(pool: library.Pool, isa: str) -> None:
    logits = torch.full((200, 64), float("-inf"))
    logits[:, [5, 60]] = torch.tensor([1.0, 1.5])
    for fields in ({}, {"top_k": 30}, {"top_p": 0.999}, {"min_p": 1e-4}):
        found, _ = _both(pool, isa, logits, [_request(stream, **fields) for stream in range(200)])
        assert set(found) == {5, 60}


def test_some_rows_of_many_are_drawn_in_place(pool: library.Pool, isa: str) -> None:
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(1))
    requests = [_request(stream, temperature=1.0, top_p=0.9) for stream in range(6)]
    best = logits.argmax(dim=1).tolist()
    whole = sampling.draw(pool, isa, logits, range(6), best, requests)
    some = sampling.draw(pool, isa, logits, [4, 1], [best[4], best[1]], [requests[4], requests[1]])
    assert some == [whole[4], whole[1]]


def test_draws_follow_the_distribution(pool: library.Pool, isa: str) -> None:
    many, logits = 20000, torch.tensor([2.0, 1.0, 0.0, -1.0, -8.0])
    found, _ = _both(pool, isa, logits.repeat(many, 1), [_request(stream) for stream in range(many)])
    observed = torch.bincount(torch.tensor(found), minlength=5) / many
    expected = logits.softmax(dim=0)
    deviation = (expected * (1 - expected) / many).sqrt()
    assert bool(((observed - expected).abs() <= 5 * deviation + 1e-9).all())


def test_a_row_outside_is_refused(pool: library.Pool, isa: str) -> None:
    with pytest.raises(library.NativeError, match="outside the logits"):
        sampling.draw(pool, isa, torch.zeros(2, 9), [2], [0], [_request(1)])
    with pytest.raises(library.NativeError, match="outside the logits"):
        sampling.draw(pool, isa, torch.zeros(2, 9), [1], [9], [_request(1)])


def test_a_mixed_batch_is_drawn_row_by_row_as_torch_does(pool: library.Pool, isa: str) -> None:
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(2))
    kinds = [{"temperature": 0.0}, {"top_p": 0.9}, {"top_k": 5}, {"top_p": 0.5, "top_k": 30}, {}]
    requests = [_request(stream, **fields) for stream, fields in enumerate(kinds)]
    found = sampling.sample(pool, isa, logits.clone(), requests)
    assert found == sampler.sample(logits.clone(), requests)
