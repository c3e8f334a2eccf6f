"""Whether a source or an image is on a list: whole, or by a beginning that ends at a boundary.

Both are compared as they stand. What could mean something else than it looks like (dot segments, encoded
slashes, half a digest) is on no list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
# A reference as containerd reads it: lower-case path components, one tag, one digest.
_IMAGE: Final = re.compile(
    r"(?P<name>[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_MAX_DECODING: Final = 4


def source_allowed(source: str, allowed: Iterable[str]) -> bool:
    """Return whether a model source is allowed: an entry as a whole, or below one that ends in `/`."""
    return _plain(source) and any(
        source.startswith(entry) if entry.endswith("/") else source == entry for entry in allowed
    )


def image_allowed(image: str, allowed: Iterable[str]) -> bool:
    """Return whether an image is allowed: an entry as a whole, below one that ends in `/`, or a digest."""
    found = _IMAGE.fullmatch(image)
    if found is None:
        return False
    for entry in allowed:
        if _DIGEST.fullmatch(entry):
            if found["digest"] == entry:
                return True
        elif image.startswith(entry) if entry.endswith("/") else image == entry:
            return True
    return False


def _plain(source: str) -> bool:
    """Return whether a source's path is what it looks like, however often a server decodes it."""
    text = source
    for _ in range(_MAX_DECODING):
        decoded = unquote(text)
        if decoded == text:
            break
        if decoded.count("/") != text.count("/"):
            return False  # an encoded slash
        text = decoded
    else:
        return False
    scheme, _, rest = text.partition("://")
    segments = (rest.removeprefix("/") if scheme == "file" else rest).split("/")
    return (
        "\\" not in text
        and not any(segment in (".", "..") for segment in segments)
        and "" not in segments[:-1]
    )
