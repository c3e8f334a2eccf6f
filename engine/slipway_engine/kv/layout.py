"""Where each layer's keys and values lie: whose group's blocks hold them, and the layer's place in those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slipway_api.kv_groups import KvGroups, group_layers
from slipway_engine.models.config import AttentionLayer


@dataclass(frozen=True, slots=True)
class KvLayout:
    """`places` holds each layer's (group, place in a block)."""

    groups: KvGroups
    places: tuple[tuple[int, int], ...]


def layout_of(layers: Sequence[AttentionLayer], longest: int) -> KvLayout:
    """Return the layout of a model's layers, for sequences of up to `longest` tokens."""
    if len({(layer.elements, layer.kv_heads) for layer in layers}) > 1:
        return one_group(layers)
    groups = group_layers(Counter(layer.window for layer in layers), longest)
    free = [(group, place) for group in range(len(groups.windows)) for place in range(groups.layers)]
    taken = {
        window: iter([at for at in free if groups.windows[at[0]] == window]) for window in groups.windows
    }
    kinds = (layer.window if layer.window in taken else None for layer in layers)
    return KvLayout(groups, tuple(next(taken[kind]) for kind in kinds))


def one_group(layers: Sequence[AttentionLayer]) -> KvLayout:
    """Return a layout whose blocks hold all layers, which forgets only what none of them sees."""
    windows = [layer.window for layer in layers]
    seen = [window for window in windows if window]
    widest = max(seen) if seen and len(seen) == len(windows) else None
    return KvLayout(KvGroups(len(windows), (widest,)), tuple((0, place) for place in range(len(windows))))
