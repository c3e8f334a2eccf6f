"""One kind of accelerator as a bounded value; the built-in ones and a cluster's own have the same shape."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

NVIDIA_PRODUCT_LABEL: Final = "nvidia.com/gpu.product"  # set by NVIDIA's GPU feature discovery
AMD_DEVICE_LABEL: Final = "amd.com/gpu.device-id"  # set by AMD's node labeller
CPU: Final = "cpu"

Compute: TypeAlias = Literal["float32", "bfloat16", "float16", "fp8", "int8"]
"""What a matrix product's inputs can be."""

MEMORY_EIGHTHS: Final = 8
COMPUTE_SEVENTHS: Final = 7

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
LabelValue = Annotated[str, Field(min_length=1, max_length=63)]


class _Entry(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True,
        use_attribute_docstrings=True,
    )  # fmt: skip


class MigProfile(_Entry):
    """A slice of a GPU: its share of the streaming multiprocessors and of the memory.

    The source of the built-in shares: NVIDIA's MIG user guide, "Supported MIG profiles".
    """

    compute_sevenths: Annotated[int, Field(ge=1, le=COMPUTE_SEVENTHS)]
    memory_eighths: Annotated[int, Field(ge=1, le=MEMORY_EIGHTHS)]


class Accelerator(_Entry):
    """One kind of accelerator; all figures are those of one device."""

    name: Name
    """What `accelerator.type` says."""
    resource: Annotated[str, Field(max_length=317, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] | None = None
    """The extended resource that a pod requests; None: cores and memory alone."""
    memory_mib: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    """Memory as the driver reports it, less than the name says; 0: that of the container."""
    bandwidth_gb_per_second: Annotated[int, Field(ge=1, le=100_000)]
    """Memory bandwidth, 10^9 bytes a second."""
    tera_flops: Annotated[dict[Compute, Annotated[Decimal, Field(gt=0, le=1_000_000)]], Field(min_length=1)]
    """Dense peak of matrix products by the type of their inputs, 10^12 operations a second."""
    link_gb_per_second: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Bandwidth to the devices of the same node, one direction."""
    per_node: Annotated[int, Field(ge=1, le=64)] = 8
    """Most devices that one node has."""
    product_label: Annotated[str, Field(max_length=317)] = NVIDIA_PRODUCT_LABEL
    """The node label that names the kind."""
    node_products: Annotated[tuple[LabelValue, ...], Field(max_length=32)] = ()
    """The values of that label that name this kind; none: any node that has the resource."""
    mig: Annotated[
        dict[Annotated[str, Field(pattern=r"^[1-7]g[.][0-9]{1,3}gb$")], MigProfile], Field(max_length=16)
    ] = Field(default_factory=dict)
    """MIG profiles by name."""
    price_per_hour: Annotated[Decimal, Field(ge=0, le=10_000, decimal_places=4)] | None = None
    """List price of one device in US dollars, an estimate to compare kinds with; of one core for a CPU."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resource is not None and not self.memory_mib:
            raise ValueError("memoryMib is missing; write what the driver reports, for example 24576")
        return self

    @property
    def memory_bytes(self) -> int:
        """Return the device's memory in bytes, 0 for a CPU."""
        return self.memory_mib << 20

    def mig_resource(self, profile: str) -> str:
        """Return the extended resource of a MIG profile, as the device plugin's `mixed` strategy names it."""
        vendor = (self.resource or "").partition("/")[0]
        return f"{vendor}/mig-{profile}"


Catalogue: TypeAlias = Mapping[str, Accelerator]
