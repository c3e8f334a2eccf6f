"""Where a checkpoint fuses or names matrices in its own way: rows of a file's tensor under our names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from slipway_engine.models.config import DecoderConfig


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows [start, stop) of the tensor `name` of a file."""

    name: str
    start: int
    stop: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of these rows of a tensor; one entry of a stack of matrices is a matrix."""
        return whole[1:] if len(whole) == 3 else (self.stop - self.start, *whole[1:])


_EXPERT = re.compile(r"(.*)\.block_sparse_moe\.experts\.(\d{1,4})\.w([123])\.weight")
_EXPERT_PARTS = {"1": "gate_proj", "2": "down_proj", "3": "up_proj"}


_BARE = ("embed_tokens.", "layers.", "norm.")


def canonical(name: str, *, bare: bool = False) -> str:
    """Return our name of a tensor; Mixtral's files and, `bare`, those of models without a head differ."""
    if bare and name.startswith(_BARE):
        name = f"model.{name}"
    match = _EXPERT.fullmatch(name)
    if match is not None:
        return f"{match[1]}.mlp.experts.{int(match[2])}.{_EXPERT_PARTS[match[3]]}.weight"
    return name.replace(".block_sparse_moe.gate.", ".mlp.gate.")


def stacked(name: str, stored: str, count: int) -> Iterator[tuple[str, Rows]]:
    """Yield each expert's matrix within the stack `stored` of `count` matrices, `name` among ours."""
    place, _, part = name.rpartition("experts.")
    for expert in range(count):
        yield f"{place}experts.{expert}.{part}", Rows(stored, expert, expert + 1)


def split(name: str, stored: str, rows: int, config: DecoderConfig) -> Iterator[tuple[str, Rows]]:
    """Yield our tensors within the tensor `stored` of `rows` rows, which is called `name` among ours.

    Rows too many or too few show in the last part's shape.
    """
    query, kv, inner = config.query_size, config.kv_size, config.intermediate_size
    fused = {
        "self_attn.qkv_proj": (("q_proj", query), ("k_proj", kv), ("v_proj", rows)),
        "mlp.gate_up_proj": (("gate_proj", inner), ("up_proj", rows)),
    }
    for place, parts in fused.items():
        if f".{place}." not in name:
            continue
        start = 0
        for part, count in parts:
            stop = min(rows, start + count)
            yield name.replace(place, f"{place.partition('.')[0]}.{part}"), Rows(stored, start, stop)
            start = stop
        return
    yield name, Rows(stored, 0, rows)
