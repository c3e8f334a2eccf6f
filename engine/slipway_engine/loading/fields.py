"""Typed, bounded look-ups in untrusted configuration; a refusal names the file, the field and the range."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from slipway_engine.errors import ModelCorrupt


class Fields:
    """A mapping read from a file of the model."""

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self.values = values
        self.prefix = prefix

    def corrupt(self, name: str, what: str) -> ModelCorrupt:
        """Return the error that `name` is not `what`."""
        value = repr(self.values.get(self.prefix + name))
        shown = value if len(value) < 80 else value[:77] + "..."
        return ModelCorrupt(f"{self.path}: {self.prefix}{name} is {shown}, but must be {what}.")

    def has(self, name: str) -> bool:
        """Say whether the field is there and not null."""
        return self.values.get(self.prefix + name) is not None

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer within [low, high]."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.corrupt(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a finite number within [low, high]."""
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
            raise self.corrupt(name, "a number")
        if not low <= value <= high:
            raise self.corrupt(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.corrupt(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.corrupt(name, "a string")
        return value

    def table(self, name: str) -> Fields:
        """Return a nested mapping, empty where it is absent."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self.corrupt(name, "an object")
        return Fields(self.path, value)

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """Return one integer or a list of them as a tuple, empty where it is absent."""
        value = self._get(name, [])
        entries = value if isinstance(value, list) else [value]
        for entry in entries:
            if not isinstance(entry, int) or isinstance(entry, bool) or not low <= entry <= high:
                raise self.corrupt(name, f"an integer from {low} to {high}, or a list of them")
        return tuple(entries)

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """Return a list of `count` numbers within [low, high]."""
        value = self._get(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.corrupt(name, f"a list of {count} numbers")
        for entry in value:
            if not isinstance(entry, int | float) or isinstance(entry, bool) or not low <= entry <= high:
                raise self.corrupt(name, f"a list of {count} numbers from {low:g} to {high:g}")
        return tuple(float(entry) for entry in value)

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(self.prefix + name)
        return default if value is None else value
