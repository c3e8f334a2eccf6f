"""How a model's layers share the blocks of one KV cache: in groups of as many layers, each of one window.

A block holds a few tokens of one group's layers, and a sequence has a table of blocks for each group. So
layers that slide give back what has left their window, while those that see everything keep theirs, and any
free block serves any group. Groups of one size in one pool are the idea of vLLM's hybrid KV cache manager.
The sums here are the same in the engine and in whoever plans for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Windows: TypeAlias = tuple[int | None, ...]
"""Each group's sliding window in tokens; None sees everything."""

MOST_GROUPS: Final = 8
"""Each group is another table of each sequence, in each step."""

_NEARLY: Final = 1.25
"""How much more of one kind may be, so that padding the others costs less than cutting it."""


@dataclass(frozen=True, slots=True)
class KvGroups:
    """`layers` have their places in a block; the last group of a kind may leave some of them empty."""

    layers: int
    windows: Windows

    @property
    def places(self) -> int:
        """Return the layers' places in one block of each group: the layers, and what is left empty."""
        return self.layers * len(self.windows)


def group_layers(counts: Mapping[int | None, int], longest: int) -> KvGroups:
    """Return the groups of `counts` {window: layers}, for sequences of up to `longest` tokens.

    A group has as many layers as the rarest kind, or more where there would be too many groups. A window that
    no sequence outgrows is none; layers of one kind are one group.
    """
    kinds: dict[int | None, int] = {}
    for window, layers in counts.items():
        kind = window if window and window < longest else None
        if layers:
            kinds[kind] = kinds.get(kind, 0) + layers
    sizes = kinds.values()
    layers = max(sizes) if max(sizes) < _NEARLY * min(sizes) else min(sizes)
    while sum(-(-size // layers) for size in sizes) > MOST_GROUPS:
        layers += 1
    ordered = sorted(kinds, key=lambda window: window or 0)
    return KvGroups(layers, tuple(window for window in ordered for _ in range(-(-kinds[window] // layers))))


def blocks_of(windows: Sequence[int | None], tokens: int, chunk: int, block_size: int) -> int:
    """Return the most blocks that a sequence of `tokens`, computed by up to `chunk`, holds at once."""
    whole, total = -(-tokens // block_size), 0
    for window in windows:
        total += whole if not window else min(whole, -(-(window - 1 + chunk) // block_size) + 2)
    return total
