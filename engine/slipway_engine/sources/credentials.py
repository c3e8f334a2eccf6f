"""Credentials as the environment brings them: without the newline that files end in, and never shown.

A value that no HTTP header can carry would come back in the words of the library that refuses it, and those
end up in a pod's last words.
"""

from __future__ import annotations

import os
import re

from slipway_engine.errors import InvalidArgument

_PLAIN = re.compile(r"[\x20-\x7e]+")


def credential(name: str) -> str | None:
    """Return a variable's value; None where it is absent or empty. Raises InvalidArgument."""
    value = os.environ.get(name, "").strip()
    if value and _PLAIN.fullmatch(value) is None:
        raise InvalidArgument(
            f"{name} holds characters that no header can carry, such as a line break in its middle; write it "
            "again (in a cluster: into the Secret that model.credentials.secretName names)."
        )
    return value or None
