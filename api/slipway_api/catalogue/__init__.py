"""The accelerator catalogue: what `accelerator.type` may name, what it can do, and which nodes have it."""

from slipway_api.catalogue.accelerator import (
    AMD_DEVICE_LABEL,
    CPU,
    NVIDIA_PRODUCT_LABEL,
    Accelerator,
    Catalogue,
    MigProfile,
)
from slipway_api.catalogue.data import CATALOGUE
from slipway_api.catalogue.extension import CatalogueError, extend

__all__ = [
    "AMD_DEVICE_LABEL",
    "CATALOGUE",
    "CPU",
    "NVIDIA_PRODUCT_LABEL",
    "Accelerator",
    "Catalogue",
    "CatalogueError",
    "MigProfile",
    "extend",
]
