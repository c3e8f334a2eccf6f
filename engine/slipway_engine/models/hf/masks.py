"""What a mask function means: everything before, a window of so many tokens, or something that we do not run.

The function is asked, not read: it is compared with what it would be, over all keys, at many queries up to
the model's whole length.
"""

from __future__ import annotations

import torch

from slipway_engine.models.hf.registry import MaskFunction

_FARTHEST = 1 << 18
"""The longest context at which masks are compared; it bounds the memory that asking takes."""


class UnknownMask(ValueError):
    """The mask is neither causal nor a causal window."""


def window_of(function: MaskFunction, max_position: int) -> int | None:
    """Return the sliding window that `function` describes, None where all before is seen."""
    length = min(max_position, _FARTHEST)
    seen = int(_visible(function, length - 1, length).sum())
    window = seen if 0 < seen < length else None
    for query in _queries(length, window):
        keys = torch.arange(length)
        expected = keys <= query
        if window is not None:
            expected &= keys > query - window
        if not torch.equal(_visible(function, query, length), expected):
            raise UnknownMask(f"the token at {query} sees neither all before it nor the last {seen} tokens")
    return window


def _queries(length: int, window: int | None) -> list[int]:
    """Return positions where masks of other shapes would differ: ends, edges of windows, odd places."""
    edge = window or 0
    places = {0, 1, 2, 3, 7, 15, 100, length // 3, length // 2, 2 * length // 3, length - 2, length - 1}
    places |= {edge - 1, edge, edge + 1, 2 * edge, 2 * edge + 1}
    return sorted(place for place in places if 0 <= place < length)


def _visible(function: MaskFunction, query: int, length: int) -> torch.Tensor:
    keys = torch.arange(length)
    nought = torch.zeros((), dtype=torch.int64)
    seen = function(nought, nought, torch.tensor(query), keys)
    return torch.as_tensor(seen, dtype=torch.bool, device="cpu").expand(length)
