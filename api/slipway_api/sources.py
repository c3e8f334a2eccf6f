"""Where a model comes from: the URI of `spec.model.source`, parsed once for every room.

hf://ORG/NAME              a repository of a Hugging Face hub
https://HOST/PATH.gguf     one file
s3://BUCKET/PATH           a prefix or a GGUF file of a bucket (gs:// likewise)
oci://HOST/REPOSITORY:TAG  an artifact of an OCI registry; @sha256:DIGEST in place of the tag pins it
pvc://CLAIM/PATH           a directory or a GGUF file on a PersistentVolumeClaim of the same namespace
file:///PATH               a directory or a GGUF file inside the engine's image
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from slipway_api.rules import Rule

Scheme: TypeAlias = Literal["hf", "https", "s3", "gs", "oci", "pvc", "file"]

SOURCE_HELP: Final = (
    "must be hf://ORG/NAME, https://HOST/PATH.gguf, s3://BUCKET/PATH, gs://BUCKET/PATH, "
    "oci://HOST/REPOSITORY:TAG, pvc://CLAIM/PATH or file:///PATH, "
    "for example hf://HuggingFaceTB/SmolLM2-135M-Instruct"
)

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?"
_BUCKET = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_PATTERNS: Final[dict[Scheme, str]] = {
    "hf": rf"^hf://{_SEGMENT}/{_SEGMENT}$",
    "https": rf"^https://{_HOST}/[A-Za-z0-9._~%/+-]+[.]gguf$",
    "s3": rf"^s3://{_BUCKET}(/{_SEGMENT})*$",
    "gs": rf"^gs://{_BUCKET}(/{_SEGMENT})*$",
    "oci": rf"^oci://{_HOST}(/[a-z0-9][a-z0-9._-]*)+(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[a-f0-9]{{64}})$",
    "pvc": rf"^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/{_SEGMENT})*$",
    "file": rf"^file://(/{_SEGMENT})+$",
}
FETCHED_SCHEMES: Final[tuple[Scheme, ...]] = ("hf", "https", "s3", "gs", "oci")
"""Schemes whose files have to be brought over the network before they can be served."""
SOURCE_PATTERN: Final = "|".join(f"({pattern})" for pattern in _PATTERNS.values())


@dataclass(frozen=True)
class ModelSource:
    """A parsed source. `location` is ORG/NAME, the whole URL (`https`), HOST/REPOSITORY with tag or digest
    (`oci`), the bucket's or the claim's name, or the absolute path.

    `path` is what follows the name of a bucket or a claim, without a leading slash.
    """

    scheme: Scheme
    location: str
    path: str = ""

    @property
    def fetched(self) -> bool:
        """True where the model has to be brought over the network before it can be served."""
        return self.scheme in FETCHED_SCHEMES


def parse_source(uri: str) -> ModelSource:
    """Return the parsed `uri`. Raises ValueError with a sentence that lists what may be written."""
    for scheme, pattern in _PATTERNS.items():
        if not re.fullmatch(pattern, uri):
            continue
        rest = uri.removeprefix(f"{scheme}://")
        if scheme == "https":
            return ModelSource(scheme, uri)
        if scheme in ("pvc", "s3", "gs"):
            name, _, path = rest.partition("/")
            return ModelSource(scheme, name, path)
        return ModelSource(scheme, rest)
    raise ValueError(f"model source {uri!r} {SOURCE_HELP}.")


def _parses(uri: str) -> bool:
    return re.fullmatch(SOURCE_PATTERN, uri) is not None


SOURCE_RULE: Final = Rule(
    cel=f"self.matches(r'{SOURCE_PATTERN}')", holds=_parses, message=f"model.source {SOURCE_HELP}"
)
