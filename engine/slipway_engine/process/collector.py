"""How often Python looks for garbage in a process whose steps take a few milliseconds.

What a step leaves behind is freed by its reference counts, but counts towards a pass over young objects all
the same, and a pass comes right after the weights have pushed everything else out of the processor's caches.
"""

from __future__ import annotations

import gc

_YOUNG = 20_000  # objects more than were freed, before a pass; a few MB of them


def settle() -> None:
    """Keep what is there out of every later pass, it lives as long as the process, and let passes be rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
