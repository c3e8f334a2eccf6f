"""How many gateways there are: the ready pods of the Service in front of them, this one at least."""

from __future__ import annotations

from typing import Any, NamedTuple

from slipway_gateway.objects import Key, read_key


class _Slice(NamedTuple):
    key: Key
    ready: frozenset[str]


class Peers:
    """Takes what the watch of the Service's EndpointSlices learns."""

    def __init__(self) -> None:
        self._slices: dict[Key, frozenset[str]] = {}

    def count(self) -> int:
        """Return the number of gateways that share the limits."""
        return max(1, len(frozenset().union(*self._slices.values())))

    def replace(self, objects: list[_Slice]) -> None:
        """These slices are all there are."""
        self._slices = {piece.key: piece.ready for piece in objects}

    def put(self, obj: Any) -> None:
        """This slice exists, in this form."""
        piece = self.slim(obj)
        if piece is not None:
            self._slices[piece.key] = piece.ready

    def remove(self, obj: Any) -> None:
        """This slice is gone."""
        key = read_key(obj)
        if key is not None:
            self._slices.pop(key, None)

    def slim(self, obj: Any) -> _Slice | None:
        """Return what is kept of a slice: its ready pods."""
        key = read_key(obj)
        if key is None:
            return None
        entries = [e for e in obj.get("endpoints") or () if isinstance(e, dict)]
        ready = [e for e in entries if (e.get("conditions") or {}).get("ready") is not False]
        names = ((e.get("targetRef") or {}).get("uid") or str(e.get("addresses")) for e in ready)
        return _Slice(key, frozenset(names))
