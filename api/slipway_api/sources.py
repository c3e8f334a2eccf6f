"""Where a model comes from: the URI of `spec.model.source`, parsed once for every room.

hf://ORG/NAME              a repository of a Hugging Face hub
https://HOST/PATH.gguf     one file
pvc://CLAIM/PATH           a directory or a GGUF file on a PersistentVolumeClaim of the same namespace
file:///PATH               a directory or a GGUF file inside the engine's image
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from slipway_api.rules import Rule

Scheme: TypeAlias = Literal["hf", "https", "pvc", "file"]

SOURCE_HELP: Final = (
    "must be hf://ORG/NAME, https://HOST/PATH.gguf, pvc://CLAIM/PATH or file:///PATH, "
    "for example hf://HuggingFaceTB/SmolLM2-135M-Instruct"
)

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATTERNS: Final[dict[Scheme, str]] = {
    "hf": rf"^hf://{_SEGMENT}/{_SEGMENT}$",
    "https": r"^https://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?/[A-Za-z0-9._~%/+-]+[.]gguf$",
    "pvc": rf"^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/{_SEGMENT})*$",
    "file": rf"^file://(/{_SEGMENT})+$",
}
SOURCE_PATTERN: Final = "|".join(f"({pattern})" for pattern in _PATTERNS.values())


@dataclass(frozen=True)
class ModelSource:
    """A parsed source. `location` is ORG/NAME, the whole URL, the claim's name, or the absolute path.

    `path` is what follows the claim's name (`pvc` only), without a leading slash.
    """

    scheme: Scheme
    location: str
    path: str = ""

    @property
    def fetched(self) -> bool:
        """True where the model has to be brought over the network before it can be served."""
        return self.scheme in ("hf", "https")


def parse_source(uri: str) -> ModelSource:
    """Return the parsed `uri`. Raises ValueError with a sentence that lists what may be written."""
    for scheme, pattern in _PATTERNS.items():
        if not re.fullmatch(pattern, uri):
            continue
        rest = uri.removeprefix(f"{scheme}://")
        if scheme == "https":
            return ModelSource(scheme, uri)
        if scheme == "pvc":
            claim, _, path = rest.partition("/")
            return ModelSource(scheme, claim, path)
        return ModelSource(scheme, rest)
    raise ValueError(f"model source {uri!r} {SOURCE_HELP}.")


def _parses(uri: str) -> bool:
    return re.fullmatch(SOURCE_PATTERN, uri) is not None


SOURCE_RULE: Final = Rule(
    cel=f"self.matches(r'{SOURCE_PATTERN}')", holds=_parses, message=f"model.source {SOURCE_HELP}"
)
