"""`spec.accelerator` and `spec.slo`: what the model runs on, and how fast it has to be."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from slipway_api.quantity import Quantity, parse_quantity
from slipway_api.rules import Rule
from slipway_api.v1alpha1.base import Spec


class MigSpec(Spec):
    """A slice of a GPU, by NVIDIA's multi-instance GPU."""

    profile: Annotated[
        str,
        Field(max_length=16),
        Rule(
            cel="self.matches('^[1-7]g[.][0-9]{1,3}gb$')",
            holds=lambda v: _is_profile(v),
            message="accelerator.mig.profile must be a MIG profile, for example 1g.10gb",
        ),
    ]
    """Name of the profile; the nodes' device plugin has to offer it (strategy `mixed`)."""
    count: Annotated[int, Field(ge=1, le=1)] | None = None
    """Slices of one replica: slices cannot compute together, so it is 1."""


class AcceleratorSpec(Spec):
    """What the model runs on."""

    whole: ClassVar[bool] = True

    type: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """`cpu`, or a name of the accelerator catalogue such as `nvidia-l4-24gb`. Absent: what the class says,
    else `cpu`."""
    mig: MigSpec | None = None
    """A slice in place of whole accelerators."""
    capacity: Literal["on-demand", "spot", "prefer-spot"] | None = None
    """Which nodes to take: ordinary ones, those the cloud may take back, or these first. Absent: any."""


class SloSpec(Spec):
    """What users of the endpoint were promised. The planner warns where it cannot be met; the autoscaler
    learns its targets from it."""

    ttft_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = None
    """Time to the first token, milliseconds."""
    tpot_ms: Annotated[int, Field(ge=1, le=60_000)] | None = None
    """Time between two tokens of a stream, milliseconds."""
    objective: Quantity | None = None
    """Percent of requests that have to meet both. Absent: 99."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.objective) || (quantity(string(self.objective)).isGreaterThan(quantity('0'))"
            " && quantity(string(self.objective)).isLessThan(quantity('100')))",
            holds=lambda slo: slo.objective is None or _is_objective(slo.objective),
            message="slo.objective is a percentage above 0 and below 100, for example 99 or '99.9'",
        ),
    )


def _is_profile(text: str) -> bool:
    compute, _, memory = text.partition("g.")
    digits = memory.removesuffix("gb")
    return (
        compute in "1234567"
        and len(compute) == 1
        and memory.endswith("gb")
        and digits.isascii()
        and digits.isdigit()
        and len(digits) <= 3
    )


def _is_objective(text: str) -> bool:
    return Decimal(0) < parse_quantity(text) < Decimal(100)
