"""Whether the watches still deliver: every version we know to exist must come by in time.

A write of our own and a relist both tell of versions that the watch has to deliver soon. A version that is
still owed after `grace` seconds in which the API server answered means a watch that is dead without having
noticed. Pure bookkeeping: time comes in as `now`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from slipway_operator.kinds import Key, Kind, Object, key_of, version_of


@dataclass
class _Owed:
    version: int
    since: float


class Freshness:
    """What each watch owes, and when it last delivered."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._owed: dict[Kind, dict[Key, _Owed]] = {}
        self._delivered: dict[Kind, float] = {}
        self._dead: dict[Kind, str] = {}

    def expect(self, kind: Kind, obj: Object, now: float) -> None:
        """The version of `obj` exists; its watch has to deliver it, or a newer one."""
        owed = self._owed.setdefault(kind, {})
        known = owed.get(key_of(obj))
        if known is None:
            owed[key_of(obj)] = _Owed(version_of(obj), now)
        elif version_of(obj) > known.version:
            known.version = version_of(obj)  # since: the watch has been silent for that long

    def deliver(self, kind: Kind, obj: Object, now: float, *, deleted: bool = False) -> None:
        """The watch of `kind` brought `obj`."""
        self._delivered[kind] = now
        self._dead.pop(kind, None)
        owed = self._owed.get(kind, {})
        known = owed.get(key_of(obj))
        if known is None:
            return
        if deleted or version_of(obj) >= known.version:
            del owed[key_of(obj)]
        else:
            known.since = now  # late, but alive

    def suspects(self, kind: Kind, now: float) -> bool:
        """Return whether something is owed for so long that a list should tell what is true."""
        return any(now - owed.since > self._grace for owed in self._owed.get(kind, {}).values())

    def listed(self, kind: Kind, present: Collection[Key], now: float) -> None:
        """A complete list was answered: what is gone is owed no more, what is overdue condemns the watch."""
        owed = self._owed.get(kind, {})
        for key in [key for key in owed if key not in present]:
            del owed[key]
        overdue = [key for key, value in owed.items() if now - value.since > self._grace]
        if overdue:
            self._dead[kind] = (
                f"the watch of {kind.plural} has not delivered {min(overdue)} for {self._grace:.0f} s "
                f"although the API server answers"
            )

    def unanswered(self, kind: Kind, now: float) -> None:
        """The API server did not answer a list: no watch can be blamed for the time until now."""
        for owed in self._owed.get(kind, {}).values():
            owed.since = now

    def age(self, kind: Kind, now: float) -> float | None:
        """Return the seconds since the watch of `kind` last delivered something; None before the first."""
        delivered = self._delivered.get(kind)
        return None if delivered is None else now - delivered

    def dead(self) -> list[str]:
        """Return a sentence for every dead watch."""
        return list(self._dead.values())
