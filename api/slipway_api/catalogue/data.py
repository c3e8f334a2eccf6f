"""The built-in catalogue.

Sources, of one device and without sparsity: NVIDIA's datasheets (T4, A10, L4, L40S, A100, H100 and H200
Tensor Core GPU; HGX B200 platform), AMD's Instinct MI300X data sheet. Where a sheet gives the figure with
sparsity, half of it stands here. Where several products share a name (an A100 of 80 GB has PCIe and SXM
forms) the slower one's figures stand. Memory is what the driver reports with error correction on; a
device of "24 GB" has 22.5 GiB. The A10's entry also finds AWS's A10G, whose tensor cores are about half
as fast.

Prices are rounded on-demand list prices of large clouds for one device, early 2026: estimates to rank
kinds by, to be overridden by a cluster's own catalogue. The CPU's figures are those of one core of a
current server, and the bandwidth that a handful of cores can draw.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from slipway_api.catalogue.accelerator import AMD_DEVICE_LABEL, CPU, Accelerator, MigProfile

_NVIDIA: Final = "nvidia.com/gpu"
_SLICES: Final = ((1, 1), (1, 2), (2, 2), (3, 4), (4, 4), (7, 8))
"""(sevenths of the compute, eighths of the memory) of the profiles from an A100 of 80 GB on."""


def _mig(*gigabytes: int, slices: tuple[tuple[int, int], ...] = _SLICES) -> dict[str, MigProfile]:
    return {
        f"{compute}g.{size}gb": MigProfile(compute_sevenths=compute, memory_eighths=memory)
        for size, (compute, memory) in zip(gigabytes, slices, strict=True)
    }


def _flops(**by_type: float) -> dict[str, Decimal]:
    return {name: Decimal(str(value)) for name, value in by_type.items()}


def _gpu(
    name: str, mib: int, bandwidth: int, flops: dict[str, Decimal], price: str, **more: Any
) -> Accelerator:
    return Accelerator.model_validate(
        {
            "name": name, "resource": _NVIDIA, "memory_mib": mib, "bandwidth_gb_per_second": bandwidth,
            "tera_flops": flops, "price_per_hour": Decimal(price), **more,
        }
    )  # fmt: skip


_HOPPER_PCIE: Final = _flops(float32=51, float16=756, bfloat16=756, fp8=1513, int8=1513)
_HOPPER: Final = _flops(float32=67, float16=989, bfloat16=989, fp8=1979, int8=1979)
_AMPERE: Final = _flops(float32=19.5, float16=312, bfloat16=312, int8=624)

CATALOGUE: Final[dict[str, Accelerator]] = {
    entry.name: entry
    for entry in (
        Accelerator(
            name=CPU,
            bandwidth_gb_per_second=25,
            tera_flops=_flops(float32=0.08, int8=0.15),  # type: ignore[arg-type]
            price_per_hour=Decimal("0.05"),
        ),
        _gpu(
            "nvidia-t4-16gb", 15360, 320, _flops(float32=8.1, float16=65, int8=130), "0.35",
            node_products=("Tesla-T4",), link_gb_per_second=16,
        ),
        _gpu(
            "nvidia-a10-24gb", 23028, 600, _flops(float32=31.2, float16=125, bfloat16=125, int8=250), "1.00",
            node_products=("NVIDIA-A10", "NVIDIA-A10G"), link_gb_per_second=32,
        ),
        _gpu(
            "nvidia-l4-24gb", 23034, 300,
            _flops(float32=30.3, float16=121, bfloat16=121, fp8=242, int8=242), "0.80",
            node_products=("NVIDIA-L4",), link_gb_per_second=32,
        ),
        _gpu(
            "nvidia-l40s-48gb", 46068, 864,
            _flops(float32=91.6, float16=362, bfloat16=362, fp8=733, int8=733), "1.85",
            node_products=("NVIDIA-L40S",), link_gb_per_second=32,
        ),
        _gpu(
            "nvidia-a100-40gb", 40960, 1555, _AMPERE, "3.00",
            node_products=("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"), link_gb_per_second=300,
            mig=_mig(5, 10, 10, 20, 20, 40),
        ),
        _gpu(
            "nvidia-a100-80gb", 81920, 1935, _AMPERE, "4.00",
            node_products=("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"), link_gb_per_second=300,
            mig=_mig(10, 20, 20, 40, 40, 80),
        ),
        _gpu(
            "nvidia-h100-80gb", 81559, 3350, _HOPPER, "6.90", node_products=("NVIDIA-H100-80GB-HBM3",),
            link_gb_per_second=450, mig=_mig(10, 20, 20, 40, 40, 80),
        ),
        _gpu(
            "nvidia-h100-80gb-pcie", 81559, 2000, _HOPPER_PCIE, "5.00", node_products=("NVIDIA-H100-PCIe",),
            link_gb_per_second=64, mig=_mig(10, 20, 20, 40, 40, 80),
        ),
        _gpu(
            "nvidia-h200-141gb", 143771, 4800, _HOPPER, "7.90", node_products=("NVIDIA-H200",),
            link_gb_per_second=450, mig=_mig(18, 35, 35, 71, 71, 141),
        ),
        _gpu(
            "nvidia-b200-180gb", 183359, 8000,
            _flops(float32=75, float16=2250, bfloat16=2250, fp8=4500, int8=4500), "14.20",
            node_products=("NVIDIA-B200",), link_gb_per_second=900, mig=_mig(23, 45, 45, 90, 90, 180),
        ),
        _gpu(
            "amd-mi300x-192gb", 196592, 5300,
            _flops(float32=163.4, float16=1307.4, bfloat16=1307.4, fp8=2614.9, int8=2614.9), "6.00",
            resource="amd.com/gpu", product_label=AMD_DEVICE_LABEL, node_products=("74a1",),
            link_gb_per_second=448,
        ),
    )
}  # fmt: skip
