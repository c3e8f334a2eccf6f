"""Matrix products with weights that never change: packed once for the machine, then only applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional

Linear: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Takes [tokens, in] and returns [tokens, out]."""

LinearBackend: TypeAlias = Callable[[torch.Tensor, torch.Tensor | None], Linear]
"""Takes a weight [out, in] and a bias, and returns the product with them; the weight may be dropped then."""

_PACK_ROWS = 32  # the row count that oneDNN lays the weight out for; it is good from 1 to 512 (measured)


def plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """Apply the weight as it lies: cuBLAS on a GPU, torch's default BLAS on a CPU."""
    return lambda rows: functional.linear(rows, weight, bias)


def onednn(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """Pack the weight for oneDNN, which uses the widest vectors of any x86 (and of arm64)."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACK_ROWS)
    apply = torch.ops.mkldnn._linear_pointwise.default

    def linear(rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = apply(rows, packed, bias, "none", [], "")
        return product

    return linear


def best_for(device: torch.device, dtype: torch.dtype) -> LinearBackend:
    """Choose once for a device: oneDNN on a CPU where this torch has it and it computes correctly."""
    return onednn if device.type == "cpu" and _onednn_works(dtype) else plain


def _onednn_works(dtype: torch.dtype) -> bool:
    """Try the packed product on small numbers, where both ways are exact."""
    if not torch._C._has_mkldnn:
        return False
    weight = (torch.arange(64 * 32).remainder(7) - 3).view(64, 32).to(dtype)
    rows = (torch.arange(5 * 32).remainder(5) - 2).view(5, 32).to(dtype)
    try:
        return torch.equal(onednn(weight, None)(rows), functional.linear(rows, weight))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
