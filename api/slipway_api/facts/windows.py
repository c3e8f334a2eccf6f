"""Which layers see a sliding window, by the words of `config.json`: (tokens, layers); the others see all."""

from __future__ import annotations

from typing import Final

from slipway_api.facts.fields import Fields
from slipway_api.facts.model import MAX_LAYERS, MAX_POSITIONS

SLIDING: Final = frozenset({"sliding_attention", "chunked_attention", "local_attention"})
_ALWAYS: Final = ("Mistral", "Mixtral", "Phi3")


def sliding_windows(fields: Fields, architecture: str, layers: int) -> tuple[tuple[int, int], ...]:
    """Return ((window, number of layers),), empty where every layer sees everything.

    `layer_types` decides where it is given, then `sliding_window_pattern` (every n-th layer sees all). A bare
    `sliding_window` counts for the families that apply it to all layers. `use_sliding_window: false` is none.
    """
    if fields.get("sliding_window", "attention_chunk_size") is None or not fields.flag(
        "use_sliding_window", True
    ):
        return ()
    window = fields.integer("sliding_window", "attention_chunk_size", low=0, high=MAX_POSITIONS)
    kinds = fields.get("layer_types")
    if isinstance(kinds, list):
        count = sum(isinstance(kind, str) and kind in SLIDING for kind in kinds)
    elif fields.get("sliding_window_pattern") is not None:
        pattern = fields.integer("sliding_window_pattern", high=MAX_LAYERS)
        count = layers - layers // pattern
    else:
        count = layers if architecture.startswith(_ALWAYS) else 0
    count = min(count, layers)
    return ((window, count),) if window and count else ()
