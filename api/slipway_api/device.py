"""One device as the planner's arithmetic sees it: an accelerator, a slice of one, or a CPU's container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from slipway_api.catalogue import Accelerator
from slipway_api.catalogue.accelerator import COMPUTE_SEVENTHS, MEMORY_EIGHTHS

MIG_MEMORY_PERCENT: Final = 95
"""A slice has a little less than its share: each instance keeps some for itself."""
CORES_PER_BANDWIDTH: Final = 4
"""Cores that draw the bandwidth that the catalogue gives for a CPU."""


@dataclass(frozen=True)
class Device:
    """Bytes, bytes a second and operations a second of one device; `flops` by the type of the inputs."""

    name: str
    cpu: bool
    memory: int
    bandwidth: float
    flops: Mapping[str, float]
    link: float
    per_node: int
    price: Decimal | None = None

    def compute(self, *types: str) -> float:
        """Return the operations a second in the first of these types that it knows, else in float32."""
        return next((self.flops[name] for name in types if name in self.flops), self.flops["float32"])


def device_of(
    accelerator: Accelerator, *, mig: str | None = None, memory: int = 0, cores: float = 1.0
) -> Device:
    """Return a device of a kind, or a `mig` slice of one; `memory` and `cores` are those of a CPU's
    container.

    Raises KeyError where the kind has no such slice.
    """
    cpu = accelerator.resource is None
    share = Decimal(1)
    bandwidth, size = accelerator.bandwidth_gb_per_second * 1e9, accelerator.memory_bytes
    price = accelerator.price_per_hour
    if cpu:
        share = Decimal(str(max(cores, 0.1)))
        bandwidth *= max(1.0, cores / CORES_PER_BANDWIDTH)
        size = memory
    elif mig is not None:
        profile = accelerator.mig[mig]
        share = Decimal(profile.compute_sevenths) / COMPUTE_SEVENTHS
        bandwidth *= profile.memory_eighths / MEMORY_EIGHTHS
        size = size * profile.memory_eighths * MIG_MEMORY_PERCENT // (100 * MEMORY_EIGHTHS)
    return Device(
        name=accelerator.name if mig is None else f"{accelerator.name} {mig}",
        cpu=cpu,
        memory=size,
        bandwidth=bandwidth,
        flops={name: float(value * share) * 1e12 for name, value in accelerator.tera_flops.items()},
        link=accelerator.link_gb_per_second * 1e9,
        per_node=1 if cpu or mig is not None else accelerator.per_node,
        price=None if price is None else price * share,
    )
