"""The accelerator catalogue: what `accelerator.type` may name, and how a node that has it is found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

NVIDIA_PRODUCT_LABEL: Final = "nvidia.com/gpu.product"  # set by NVIDIA's GPU feature discovery


@dataclass(frozen=True)
class Accelerator:
    """One kind of accelerator.

    `resource` is the extended resource a pod requests (None: cores and memory alone), `memory_gib` one
    device's memory, `node_products` the values of GPU feature discovery's product label that name this kind.
    """

    name: str
    resource: str | None
    memory_gib: int
    node_products: tuple[str, ...] = field(default=())


CPU: Final = "cpu"

CATALOGUE: Final[dict[str, Accelerator]] = {
    entry.name: entry
    for entry in (
        Accelerator(CPU, None, 0),
        Accelerator("nvidia-t4-16gb", "nvidia.com/gpu", 16, ("Tesla-T4",)),
        Accelerator("nvidia-a10-24gb", "nvidia.com/gpu", 24, ("NVIDIA-A10", "NVIDIA-A10G")),
        Accelerator("nvidia-l4-24gb", "nvidia.com/gpu", 24, ("NVIDIA-L4",)),
        Accelerator("nvidia-l40s-48gb", "nvidia.com/gpu", 48, ("NVIDIA-L40S",)),
        Accelerator(
            "nvidia-a100-40gb", "nvidia.com/gpu", 40, ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB")
        ),
        Accelerator(
            "nvidia-a100-80gb", "nvidia.com/gpu", 80, ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe")
        ),
        Accelerator("nvidia-h100-80gb", "nvidia.com/gpu", 80, ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe")),
        Accelerator("nvidia-h200-141gb", "nvidia.com/gpu", 141, ("NVIDIA-H200",)),
    )
}
