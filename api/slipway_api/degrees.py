"""Degrees of parallelism that a model's numbers allow: one rule for the operator's planner and the engine."""

from __future__ import annotations

from collections.abc import Sequence


def cuts_evenly(degree: int, heads: int, kv_heads: int, inner: int, *, latent: bool = False) -> bool:
    """Say whether `degree` ranks can share a layer.

    A rank holds whole query heads. Key heads are divided, or where there are fewer of them than ranks,
    repeated evenly; latent keys are whole on every rank. `inner` is what an MLP (or one expert) is wide.
    """
    keys = latent or kv_heads % degree == 0 or degree % kv_heads == 0
    return heads % degree == 0 and keys and inner % degree == 0


def listed(degrees: Sequence[int]) -> str:
    """Return degrees as a clause: "1, 2 or 4"."""
    words = [str(degree) for degree in degrees]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def stages_of(layers: int, pipeline: int) -> tuple[int, ...]:
    """Return how many layers each stage of a pipeline has.

    What does not divide goes to the stages in the middle first: the first also embeds, the last also answers.
    """
    least, more = divmod(layers, pipeline)
    order = sorted(range(pipeline), key=lambda stage: (stage in (0, pipeline - 1), stage))
    lucky = set(order[:more])
    return tuple(least + (stage in lucky) for stage in range(pipeline))
