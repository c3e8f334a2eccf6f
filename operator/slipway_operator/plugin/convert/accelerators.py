"""Which accelerator an object of another operator means: from its resources, labels and profile names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from slipway_api.catalogue import CATALOGUE, CPU
from slipway_operator.plugin.convert.draft import Draft

_SIZE = re.compile(r"\d+gb")
GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu")


def count(resources: Mapping[str, Any] | None) -> int:
    """Return the GPUs that a container asks for."""
    resources = resources or {}
    for part in ("limits", "requests"):
        for name in GPU_RESOURCES:
            text = str((resources.get(part) or {}).get(name) or "")
            if text.isdigit():
                return int(text)
    return 0


def rest(resources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the resources without GPUs: those follow from the accelerator and the parallel degree."""
    kept = {
        part: {name: str(value) for name, value in (values or {}).items() if name not in GPU_RESOURCES}
        for part, values in (resources or {}).items()
        if part in ("requests", "limits")
    }
    return {part: values for part, values in kept.items() if values}


def from_words(words: Iterable[str]) -> str | None:
    """Return the one accelerator that free words name, such as `nvidia-gpu-l4`; else None."""
    pieces = {piece for word in words for piece in re.split(r"[^a-z0-9]+", word.lower()) if piece}
    if pieces & {"cpu"} and not pieces & {"gpu"}:
        return CPU
    found = [name for name in CATALOGUE if name != CPU and _named(name, pieces)]
    return found[0] if len(found) == 1 else None


def from_labels(labels: Mapping[str, Any] | None) -> str | None:
    """Return the accelerator whose product label a node selector asks for."""
    wanted = {str(value) for value in (labels or {}).values()}
    for entry in CATALOGUE.values():
        if wanted & set(entry.node_products):
            return entry.name
    return None


def choose(draft: Draft, gpus: int, found: str | None, asked: str | None) -> None:
    """Put the accelerator into the draft: what the user asked for, what was found, or a note to choose."""
    kind = asked or found or (CPU if gpus == 0 else None)
    if kind is None:
        known = ", ".join(name for name in CATALOGUE if name != CPU)
        draft.note(f"the object does not say which GPU it runs on: write accelerator.type, one of {known}")
    else:
        draft.put("accelerator.type", kind)
    degree = draft.get("parallelism.tensor") or 1
    stages = draft.get("parallelism.pipeline") or 1
    if gpus > 1 and degree * stages == 1:
        draft.put("parallelism.tensor", gpus)


def _named(name: str, pieces: set[str]) -> bool:
    """Return whether `pieces` name an entry such as nvidia-h100-80gb: its size may be missing, not differ."""
    _, *words = name.split("-")
    sizes = {piece for piece in pieces if _SIZE.fullmatch(piece)}
    size = next(word for word in words if _SIZE.fullmatch(word))
    return set(words) - {size} <= pieces and (not sizes or size in sizes)
