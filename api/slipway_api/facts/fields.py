"""Typed, bounded look-ups in untrusted metadata; a refusal names the field and the range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway_api.facts.model import FactsError


class Fields:
    """A mapping from a model's metadata; `prefix` stands before every name."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self.values, self.prefix = values, prefix

    def get(self, *names: str) -> Any:
        """Return the first of these fields that is there and not null."""
        return next(
            (v for v in (self.values.get(self.prefix + name) for name in names) if v is not None), None
        )

    def integer(self, *names: str, high: int, low: int = 1, default: int | None = None) -> int:
        """Return an integer within [low, high]; of a list (one entry a layer) the largest."""
        value = self.get(*names)
        if isinstance(value, list) and value and len(value) <= 1 << 12 and all(map(_is_integer, value)):
            value = max(value)
        if value is None:
            value = default
        if not _is_integer(value) or not low <= value <= high:
            raise self.wrong(names[0], f"an integer from {low} to {high}", value)
        return int(value)

    def text(self, *names: str, default: str | None = None) -> str:
        """Return a string."""
        value = self.get(*names)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.wrong(names[0], "a string", value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def wrong(self, name: str, what: str, value: object) -> FactsError:
        """Return the error that `name` is not `what`."""
        shown = "missing" if value is None else repr(value)[:60]
        return FactsError(f"{self.prefix}{name} is {shown}, but must be {what}.")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
