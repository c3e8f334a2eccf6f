"""Who a model's bare name belongs to, where several objects claim it: to the oldest claim. Pure.

The gateway routes by this order and the operator tells the others (`NameTaken`), so both ask here. Specs are
taken as the API server stores them, of whatever version: what cannot be read claims nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

Age: TypeAlias = tuple[str, str, tuple[str, str]]


class Claimant(Protocol):
    """Something that claims names."""

    @property
    def names(self) -> Sequence[str]:
        """Return every bare name that it claims."""

    @property
    def age_order(self) -> Age:
        """Return what sorts the oldest claim first."""


C = TypeVar("C", bound=Claimant)


def age_order(created: str, uid: str, namespace: str, name: str) -> Age:
    """Return what sorts the oldest claim first: creationTimestamp (which sorts as text), then UID."""
    return created, uid, (namespace, name)


def served_names(name: str, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that an object of this name and spec serves its model under."""
    return _texts(_of(spec.get("model"), "servedNames")) or (name,)


def adapter_names(name: str, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of its adapters, which are asked for like models."""
    adapters = _of(spec.get("model"), "adapters")
    found = _texts(_of(adapter, "name") for adapter in (adapters if isinstance(adapters, list) else ()))
    served = served_names(name, spec)
    return tuple(adapter for adapter in found if adapter not in served)


def by_name(claimants: Iterable[C]) -> dict[str, tuple[C, ...]]:
    """Return for each name those that claim it, the one it belongs to first."""
    found: dict[str, list[C]] = defaultdict(list)
    for claimant in sorted(claimants, key=lambda one: one.age_order):
        for name in claimant.names:
            found[name].append(claimant)
    return {name: tuple(claims) for name, claims in found.items()}


def _of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _texts(values: Any) -> tuple[str, ...]:
    """Return the texts among some values, each once."""
    if values is None or isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        return ()
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))
