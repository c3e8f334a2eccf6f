"""Each feature against its definition, and the draws against their distribution."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import pytest
import torch

from slipway_engine.core import sampler
from slipway_engine.core.request import Request
from slipway_engine.sampling import SamplingParams

VOCAB = 50
_order = count()


def request(prompt: list[int] | None = None, output: list[int] | None = None, **sampling: Any) -> Request:
    prompt = prompt or [0]
    stream = sampling.pop("stream", next(_order))
    params = SamplingParams(**{"max_tokens": 100, **sampling})
    return Request(
        id="r",
        tokens=prompt + (output or []),
        prompt_length=len(prompt),
        limit=100,
        sampling=params,
        stop_ids=frozenset(params.stop_token_ids),
        key=(0, 0.0, 0),
        chain=[b""],
        stream=stream,
    )


def spread(rows: int = 1, seed: int = 0, width: int = VOCAB) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 2


def draws(logits: torch.Tensor, many: int = 20000, **sampling: Any) -> torch.Tensor:
    """Return the observed frequency of each token over many independent streams."""
    requests = [request(stream=stream, **sampling) for stream in range(many)]
    tokens = [one.token_id for one in sampler.sample(logits.expand(many, -1).clone(), requests)]
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[1]) / many


def allowed_by(frequencies: torch.Tensor) -> set[int]:
    return set(frequencies.nonzero().flatten().tolist())


def assert_distributed(frequencies: torch.Tensor, expected: torch.Tensor, many: int = 20000) -> None:
    deviation = (expected * (1 - expected) / many).sqrt()
    assert bool(((frequencies - expected).abs() <= 5 * deviation + 1e-9).all())


def test_greedy_takes_the_best() -> None:
    logits = spread(5)
    best = logits.argmax(dim=1).tolist()
    requests = [request(temperature=temperature) for temperature in (0, 0, 1e-6, 0, 0)]
    assert [one.token_id for one in sampler.sample(logits, requests)] == best


def test_draws_from_the_softmax() -> None:
    logits = spread()
    assert_distributed(draws(logits), torch.softmax(logits[0], 0))
    assert_distributed(draws(logits, temperature=0.5), torch.softmax(logits[0] / 0.5, 0))


def test_top_k_keeps_the_k_best() -> None:
    logits = spread()
    kept = logits[0].topk(4)
    expected = torch.zeros(VOCAB).scatter(0, kept.indices, torch.softmax(kept.values, 0))
    assert_distributed(draws(logits, top_k=4), expected)


@pytest.mark.parametrize("reach", [4, 1024])
def test_top_p_keeps_the_smallest_set_that_reaches_p(reach: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_NUCLEUS", reach)
    logits = spread()
    ranked = torch.softmax(logits[0], 0).sort(descending=True)
    needed = int((ranked.values.cumsum(0) < 0.9).sum()) + 1
    expected = torch.zeros(VOCAB).scatter(
        0, ranked.indices[:needed], ranked.values[:needed] / ranked.values[:needed].sum()
    )
    assert_distributed(draws(logits, top_p=0.9), expected)


def test_top_p_counts_within_top_k() -> None:
    logits = torch.tensor([[3.0, 2.9, 2.8, 2.7] + [2.6] * 46])
    assert allowed_by(draws(logits, 2000, top_k=2, top_p=0.4)) == {0}
    assert allowed_by(draws(logits, 2000, top_k=2, top_p=0.6)) == {0, 1}


def test_min_p_is_relative_to_the_best() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04]]))
    assert allowed_by(draws(logits, 2000, min_p=0.19)) == {0, 1, 2}


def test_penalties_follow_their_definitions() -> None:
    logits = spread(4)
    before = logits.clone()
    prompt, output = [1, 2, 2], [3, 3, 4]
    sampler.edit(
        logits,
        [
            request(prompt, output, repetition_penalty=1.5),
            request(prompt, output, frequency_penalty=0.3, presence_penalty=0.2),
            request(prompt, output),
            request(prompt, output, logit_bias={7: 4.0, 8: -100.0}),
        ],
    )
    expected = before.clone()
    for token in (1, 2, 3, 4):
        value = float(before[0, token])
        expected[0, token] = value / 1.5 if value > 0 else value * 1.5
    expected[1, 3] -= 0.3 * 2 + 0.2
    expected[1, 4] -= 0.3 + 0.2
    expected[3, 7] += 4
    expected[3, 8] -= 100
    torch.testing.assert_close(logits, expected)


def test_min_tokens_forbids_the_end_until_then() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, 9] = 10.0
    requests = [
        request(output=[1], min_tokens=2, stop_token_ids=(9,), temperature=0),
        request(output=[1, 1], min_tokens=2, stop_token_ids=(9,), temperature=0),
    ]
    first, second = sampler.sample(logits, requests)
    assert first.token_id != 9
    assert second.token_id == 9


def test_log_probabilities_are_the_models_own() -> None:
    logits = spread(3)
    expected = torch.log_softmax(logits, 1)
    requests = [
        request(logprobs=3, temperature=0, logit_bias={4: 50.0}),
        request(temperature=0),
        request(logprobs=0, temperature=0.7, top_k=3),
    ]
    first, second, third = sampler.sample(logits, requests)
    assert first.token_id == 4
    assert first.logprob is not None
    assert first.logprob.logprob == pytest.approx(float(expected[0, 4]))
    best = expected[0].topk(3)
    assert [token for token, _ in first.logprob.top] == best.indices.tolist()
    assert [value for _, value in first.logprob.top] == pytest.approx(best.values.tolist())
    assert second.logprob is None
    assert third.logprob is not None
    assert third.logprob.top == ()
    assert third.logprob.logprob == pytest.approx(float(expected[2, third.token_id]))


def test_a_row_draws_the_same_in_any_batch() -> None:
    """Every mixture of features, alone and all together."""
    kinds: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 9, "top_p": 0.5},
        {"temperature": 1.7}, {"repetition_penalty": 1.3, "top_p": 0.9}, {"logprobs": 2},
        {"logit_bias": {3: 2.0}},
    ]  # fmt: skip
    logits = spread(len(kinds) * 8, width=3000)
    requests = [request([1, 2], [5, 6], stream=row, **kinds[row % len(kinds)]) for row in range(len(logits))]
    together = [one.token_id for one in sampler.sample(logits.clone(), requests)]
    alone = [
        sampler.sample(logits[row : row + 1].clone(), requests[row : row + 1])[0].token_id
        for row in range(len(logits))
    ]
    assert together == alone
    assert len(set(together)) > 20


def test_logits_that_are_not_finite_yield_no_token() -> None:
    logits = spread(3)
    logits[1, 7] = math.nan
    sampled = sampler.sample(logits, [request(temperature=0), request(temperature=0), request()])
    assert [one.token_id is None for one in sampled] == [False, True, False]


def test_full_nucleus_on_a_flat_distribution_can_reach_every_token() -> None:
    """More tokens than the first search sees, none of them better than another."""
    logits = torch.zeros(1, 3000)
    requests = [request(stream=stream, top_p=0.99) for stream in range(4000)]
    tokens = {one.token_id for one in sampler.sample(logits.expand(4000, -1).clone(), requests)}
    assert len(tokens) > 1800
