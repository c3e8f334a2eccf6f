"""The rotary embedding of a `config.json`, in today's layout and in the older ones."""

from __future__ import annotations

from math import log, sqrt

from slipway_engine.errors import ModelUnsupported
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.hf_families import Family
from slipway_engine.loading.limits import MAX_POSITIONS
from slipway_engine.models.config import RopeConfig

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")

_THETA = (1.0, 1e12)
_FACTOR = (1.0, 1e6)
_PER_LAYER = ("full_attention", "sliding_attention")


def read_rope(
    fields: Fields, family: Family, head_dim: int, max_position: int
) -> tuple[RopeConfig, RopeConfig | None]:
    """Return the rotary embedding, and that of layers with a window where it is another."""
    reader = _Reader(fields, family, head_dim, max_position)
    table = fields.table("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    if fields.has("rope_scaling") and fields.table("rope_scaling").values != table.values:
        raise fields.corrupt("rope_scaling", "absent or the same where there are rope_parameters")
    if any(table.has(kind) for kind in _PER_LAYER):
        full, local = (table.table(kind) for kind in _PER_LAYER)
        return reader.read(full, family.theta), reader.read(local, family.local_theta or family.theta)
    theta = fields.number("rope_theta", *_THETA, family.theta)
    if family.local_theta is None:
        return reader.read(table, theta), None
    local_theta = fields.number("rope_local_base_freq", *_THETA, family.local_theta)
    return reader.read(table, theta), RopeConfig(local_theta)


class _Reader:
    def __init__(self, fields: Fields, family: Family, head_dim: int, max_position: int) -> None:
        self.fields = fields
        self.family = family
        self.head_dim = head_dim
        self.max_position = max_position

    def read(self, table: Fields, theta: float) -> RopeConfig:
        base = table.number("rope_theta", *_THETA, theta)
        kind = table.text("rope_type", table.text("type", "default"))
        fraction = self.fraction(table)
        if self.family.partial and kind in ("su", "yarn"):
            kind = "longrope"  # what Phi-3's first files called it
        if kind in ("default", "dynamic"):
            # "dynamic" moves the base only beyond the model's length, which is where requests end.
            return RopeConfig(base, fraction=fraction)
        if kind == "linear":
            return RopeConfig(base, "linear", factor=table.number("factor", *_FACTOR), fraction=fraction)
        if kind == "llama3":
            return self.llama3(table, base, fraction)
        if kind == "yarn":
            return self.yarn(table, base, fraction)
        if kind == "longrope":
            return self.longrope(table, base, fraction)
        raise ModelUnsupported(
            f"{self.fields.path}: rope_type {kind!r} is not supported; {', '.join(KINDS)} are."
        )

    def fraction(self, table: Fields) -> float:
        name = "partial_rotary_factor"
        fraction = table.number(name, 0, 1, self.fields.number(name, 0, 1, 1.0))
        if fraction != 1.0 and not self.family.partial:
            raise ModelUnsupported(
                f"{self.fields.path}: {name} {fraction:g} is not supported for this architecture; 1 is."
            )
        turned = int(self.head_dim * fraction)
        if turned < 2 or turned % 2:
            raise self.fields.corrupt(name, f"such that an even part of {self.head_dim} elements turns")
        return fraction

    def original(self, table: Fields) -> int:
        name = "original_max_position_embeddings"
        default = self.fields.integer(name, 1, MAX_POSITIONS, self.max_position)
        return table.integer(name, 1, MAX_POSITIONS, default)

    def llama3(self, table: Fields, base: float, fraction: float) -> RopeConfig:
        low = table.number("low_freq_factor", 1e-6, 1e6)
        high = table.number("high_freq_factor", 1e-6, 1e6)
        if high <= low:
            raise table.corrupt("high_freq_factor", f"greater than low_freq_factor, {low:g}")
        return RopeConfig(
            base,
            "llama3",
            factor=table.number("factor", *_FACTOR),
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_position=self.original(table),
            fraction=fraction,
        )

    def yarn(self, table: Fields, base: float, fraction: float) -> RopeConfig:
        if base <= 1:
            raise table.corrupt("rope_theta", "greater than 1")
        original = self.original(table)
        grown = max(1.0, self.max_position / original) if original != self.max_position else None
        factor = table.number("factor", *_FACTOR, grown)
        return RopeConfig(
            base,
            "yarn",
            factor=factor,
            original_max_position=original,
            beta_fast=table.number("beta_fast", 1e-3, 1e6, 32.0),
            beta_slow=table.number("beta_slow", 1e-3, 1e6, 1.0),
            truncate=table.flag("truncate", True),
            magnitude=_yarn_magnitude(table, factor),
            fraction=fraction,
        )

    def longrope(self, table: Fields, base: float, fraction: float) -> RopeConfig:
        original, pairs = self.original(table), int(self.head_dim * fraction) // 2
        factor = table.number("factor", *_FACTOR, max(1.0, self.max_position / original))
        grown = 1.0 if factor <= 1 or original == 1 else sqrt(1 + log(factor) / log(original))
        return RopeConfig(
            base,
            "longrope",
            original_max_position=original,
            factors=table.numbers("short_factor", pairs, 1e-6, 1e6),
            long_factors=table.numbers("long_factor", pairs, 1e-6, 1e6),
            magnitude=table.number("attention_factor", 1e-3, 1e3, grown),
            fraction=fraction,
        )


def _yarn_magnitude(table: Fields, factor: float) -> float:
    def grown(by: float) -> float:
        return 0.1 * by * log(factor) + 1.0 if factor > 1 else 1.0

    by, by_all = (table.number(name, 0, 1e3, 0.0) for name in ("mscale", "mscale_all_dim"))
    default = grown(by) / grown(by_all) if by and by_all else grown(1.0)
    return table.number("attention_factor", 1e-3, 1e3, default)
