"""How much memory a computation holds at its busiest, counted on tensors without data."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of what is computed within and not yet freed; `peak` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if _is_tensor(leaf) and leaf.untyped_storage()._cdata not in inputs | self._known:
                self._add(leaf.untyped_storage())
        return out

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        self._known.clear()

    def _add(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()
        self._known.add(number)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._drop, number, size)

    def _drop(self, number: int, size: int) -> None:
        self._known.discard(number)
        self._live -= size


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
