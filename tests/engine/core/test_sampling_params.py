"""Values outside their range are refused by name, and so is what does not go together."""

from __future__ import annotations

from typing import Any

import pytest

from slipway_engine.errors import RequestError
from slipway_engine.sampling import SamplingParams


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"beam_width": 1, "temperature": 0}, "beam_width"),
        ({"beam_width": 17, "temperature": 0}, "beam_width"),
        ({"beam_width": 4, "n": 5, "temperature": 0}, "n"),
        ({"beam_width": 4, "temperature": 0.5}, "temperature"),
        ({"beam_width": 4, "temperature": 0, "best_of": 4}, "best_of"),
        ({"beam_width": 4, "temperature": 0, "logprobs": 1}, "logprobs"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"length_penalty": 11.0}, "length_penalty"),
    ],
)
def test_refuses(values: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match=param) as refused:
        SamplingParams(**values)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("values", "sequences", "ranked"),
    [
        ({}, 1, False),
        ({"n": 3}, 3, False),
        ({"n": 3, "best_of": 3}, 3, False),
        ({"n": 2, "best_of": 5}, 5, True),
        ({"n": 2, "beam_width": 4, "temperature": 0}, 4, True),
    ],
)
def test_how_many_run_and_whether_they_are_compared(
    values: dict[str, Any], sequences: int, ranked: bool
) -> None:
    params = SamplingParams(**values)
    assert (params.sequences, params.ranked) == (sequences, ranked)
