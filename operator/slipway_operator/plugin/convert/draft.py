"""A draft: an LLMDeployment in the making, and the notes about what the source object had beyond it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway_api import names
from slipway_operator.kinds import Object


class CannotConvert(ValueError):
    """The object cannot become an LLMDeployment; the sentence says why and what can be done."""


@dataclass
class Draft:
    """`spec` by dotted paths, and what has to be told about the conversion.

    `notes` are for the reader: a field that has no counterpart, or a value that has to be chosen by hand.
    """

    name: str
    namespace: str | None = None
    spec: Object = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, path: str, value: Any) -> None:
        """Set a field below `spec`; None and empty containers leave it absent."""
        if value is None or value == {} or value == []:
            return
        *parents, last = path.split(".")
        at = self.spec
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value

    def get(self, path: str) -> Any:
        """Return a field below `spec`, None where it is absent."""
        at: Any = self.spec
        for part in path.split("."):
            at = at.get(part) if isinstance(at, Mapping) else None
        return at

    def note(self, text: str) -> None:
        """Tell the reader something once."""
        if text not in self.notes:
            self.notes.append(text)

    def leave(self, source: Mapping[str, Any], known: Iterable[str], prefix: str) -> None:
        """Note the fields of `source` that are set and not among `known`: they were not taken over."""
        for key in sorted(set(source) - set(known)):
            if source[key] not in (None, "", [], {}, False):
                self.note(f"{prefix}{key} has no counterpart and was left out")

    def result(self) -> Object:
        """Return the LLMDeployment."""
        metadata = {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {})
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": metadata,
            "spec": self.spec,
        }


def begin(source: Mapping[str, Any]) -> Draft:
    """Return an empty draft with the name and namespace of `source`."""
    metadata = source.get("metadata") or {}
    name = str(metadata.get("name") or "")
    draft = Draft(name[: names.NAME_MAX_LENGTH].rstrip("-").replace(".", "-"), metadata.get("namespace"))
    if draft.name != name:
        draft.note(
            f"the name {name!r} became {draft.name!r}, as a Service may be called: clients of the old URL "
            "have to change"
        )
    return draft
