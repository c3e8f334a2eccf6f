"""Experts: every token reaches the ones that its router likes best, and no other token changes its answer."""

from __future__ import annotations

import torch

from slipway_engine.models.config import ExpertsConfig
from slipway_engine.models.feedforward import Experts, Gated
from slipway_engine.models.linear import plain

HIDDEN, INNER = 16, 12


def _experts(config: ExpertsConfig) -> Experts:
    generator = torch.Generator().manual_seed(1)

    def weight(rows: int, width: int) -> torch.Tensor:
        return torch.randn(rows, width, generator=generator) * 0.3

    experts = [
        Gated(plain(weight(2 * INNER, HIDDEN), None), plain(weight(HIDDEN, INNER), None), "silu")
        for _ in range(config.count)
    ]
    return Experts(config, plain(weight(config.count, HIDDEN), None), experts)


def _one_by_one(experts: Experts, rows: torch.Tensor) -> torch.Tensor:
    answers = []
    for row in torch.split(rows, 1):
        shares = experts.router(row).softmax(dim=-1)[0]
        best = shares.argsort(descending=True)[: experts.config.per_token].tolist()
        total = float(shares[best].sum()) if experts.config.normalised else 1.0
        answers.append(sum(experts.experts[n](row) * (float(shares[n]) / total) for n in best))
    return torch.cat(answers)


def test_grouped_by_expert_equals_one_by_one() -> None:
    rows = torch.randn(37, HIDDEN, generator=torch.Generator().manual_seed(2))
    for normalised in (False, True):
        for count, per_token in ((6, 2), (40, 3), (3, 3), (5, 1)):
            experts = _experts(ExpertsConfig(count, per_token, normalised))
            torch.testing.assert_close(experts(rows), _one_by_one(experts, rows), atol=1e-5, rtol=1e-5)


def test_one_token_and_none() -> None:
    experts = _experts(ExpertsConfig(8, 2, True))
    row = torch.randn(1, HIDDEN)
    torch.testing.assert_close(experts(row), _one_by_one(experts, row), atol=1e-5, rtol=1e-5)
    assert experts(torch.empty(0, HIDDEN)).shape == (0, HIDDEN)
