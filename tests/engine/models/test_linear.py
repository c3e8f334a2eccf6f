"""Packed products equal plain ones, for every row count that steps have."""

from __future__ import annotations

import pytest
import torch

from slipway_engine.models import linear


@pytest.mark.parametrize("rows", [1, 2, 7, 33, 200])
@pytest.mark.parametrize("biased", [False, True])
def test_the_chosen_backend_equals_torch(rows: int, biased: bool) -> None:
    weight, bias = torch.randn(150, 72), torch.randn(150) if biased else None
    inputs = torch.randn(rows, 72)
    with torch.inference_mode():
        ours = linear.best_for(torch.device("cpu"), torch.float32)(weight, bias)(inputs)
    torch.testing.assert_close(ours, torch.nn.functional.linear(inputs, weight, bias))


def test_falls_back_where_the_packed_product_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn", lambda weight, bias: lambda rows: rows @ weight.T + 1)
    assert linear.best_for(torch.device("cpu"), torch.float32) is linear.plain
