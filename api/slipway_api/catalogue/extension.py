"""A cluster's own catalogue: entries of a ConfigMap, parsed, validated and laid over the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from slipway_api.catalogue.accelerator import CPU, Accelerator, Catalogue

MAX_ENTRIES: Final = 256


class CatalogueError(ValueError):
    """An entry of a cluster's own catalogue cannot be used."""


def extend(catalogue: Catalogue, entries: Mapping[str, Any]) -> dict[str, Accelerator]:
    """Return `catalogue` with the parsed `entries` laid over it; keys are names, values camelCase fields.

    A known name changes the fields given (a price, say) and keeps the rest; a new one needs at least
    `resource`, `memoryMib`, `bandwidthGbPerSecond` and `teraFlops`. Raises CatalogueError.
    """
    if len(entries) > MAX_ENTRIES:
        raise CatalogueError(f"the catalogue has {len(entries)} entries; it may have {MAX_ENTRIES}.")
    merged = dict(catalogue)
    for name, fields in entries.items():
        if not isinstance(name, str) or not isinstance(fields, Mapping):
            raise CatalogueError(f"the catalogue's entry {str(name)[:63]!r} must be an object of fields.")
        merged[name] = _entry(name, fields, catalogue.get(name))
    return merged


def _entry(name: str, fields: Mapping[str, Any], known: Accelerator | None) -> Accelerator:
    base = known.model_dump(by_alias=True) if known is not None else {}
    if known is None and "resource" not in fields:
        raise CatalogueError(
            f"the catalogue's entry {name!r} lacks resource; write for example nvidia.com/gpu."
        )
    if name == CPU and fields.get("resource") is not None:
        raise CatalogueError("the catalogue's entry 'cpu' has no resource; remove the field.")
    try:
        return Accelerator.model_validate({**base, **fields, "name": name})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "entry"
        text = str(problem["msg"]).removeprefix("Value error, ")
        raise CatalogueError(f"the catalogue's entry {name[:63]!r}: {field}: {text}.") from None
