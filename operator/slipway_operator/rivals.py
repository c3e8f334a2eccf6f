"""Which LLMDeployments claim the same names for their models, and whose claim is the older one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from slipway_api import claims
from slipway_operator.kinds import Key, Object, key_of, uid_of


@dataclass(frozen=True, slots=True)
class Claim:
    """One object's claim."""

    key: Key
    names: tuple[str, ...]
    age_order: claims.Age


def claim_of(parent: Object) -> Claim:
    """Return what an LLMDeployment claims."""
    key, spec = key_of(parent), parent.get("spec") or {}
    names = claims.served_names(key.name, spec) + claims.adapter_names(key.name, spec)
    created = str(parent["metadata"].get("creationTimestamp") or "")
    return Claim(key, names, claims.age_order(created, uid_of(parent), *key))


class Claims:
    """All claims, by name: looking at one object costs as much as it has rivals, not as there are objects."""

    def __init__(self) -> None:
        self._of: dict[Key, Claim] = {}
        self._by_name: defaultdict[str, set[Key]] = defaultdict(set)

    def put(self, parent: Object) -> None:
        """Take in an object, in place of what it claimed before."""
        self.drop(key_of(parent))
        claim = self._of[key_of(parent)] = claim_of(parent)
        for name in claim.names:
            self._by_name[name].add(claim.key)

    def drop(self, key: Key) -> None:
        """Forget an object."""
        claim = self._of.pop(key, None)
        for name in claim.names if claim else ():
            self._by_name[name].discard(key)
            if not self._by_name[name]:
                del self._by_name[name]

    def rivals(self, key: Key) -> set[Key]:
        """Return who else claims a name that an object claims."""
        claim = self._of.get(key)
        found = {rival for name in (claim.names if claim else ()) for rival in self._by_name[name]}
        return found - {key}

    def taken(self, key: Key) -> tuple[tuple[str, Key], ...]:
        """Return the names that an object claims in vain, and who holds each."""
        claimants = [self._of[one] for one in (key, *self.rivals(key)) if one in self._of]
        return tuple(
            (name, claimed[0].key)
            for name, claimed in claims.by_name(claimants).items()
            if claimed[0].key != key and any(one.key == key for one in claimed)
        )


def sentence(key: Key, taken: tuple[tuple[str, Key], ...]) -> str:
    """Return what an object is told. Objects of other namespaces are nobody's business, and not named."""
    held = [
        f"{name!r} (by {holder.name})"
        if holder.namespace == key.namespace
        else f"{name!r} (in another namespace)"
        for name, holder in sorted(taken)
    ]
    what = "names are" if len(held) > 1 else "name is"
    more = f" and {len(held) - 5} more" if len(held) > 5 else ""
    return (
        f"The {what} held by an older object: {', '.join(held[:5])}{more}. Who sees both gets the older; "
        f"ask for {key.namespace}/{key.name}, or claim other names in spec.model."
    )
