"""Takes out of other programs' words what looks like a credential, before anybody can read it in a status.

The operator has no right on Secrets, so it cannot know their values. What a library prints of a request that
was refused, a URL with a password, or a token under its own name are known by their shape.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

_IN_URL: Final = re.compile(r"(://)[^/\s@]*:[^/\s@]*@")
_SCHEME: Final = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_KNOWN: Final = re.compile(
    r"\b(hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|ya29\.|AKIA|ASIA|AIza|eyJ)[\w.~+/=-]{8,}"
)
_NAMED: Final = re.compile(
    r"""(?P<name>[\w-]*(?:token|secret|password|passwd|api[_-]?key|access[_-]?key|signature|credential|\bsig)
        (?:[_-]?id)?["']?\s*[=:]\s*["']?)
        (?!\d+\b)(?P<value>[^\s"'&,;)\]}]{6,})""",
    re.IGNORECASE | re.VERBOSE,
)


def redact(text: str) -> str:
    """Return text in which what looks like a credential is three stars; the rest is as it was."""
    text = _IN_URL.sub(rf"\1{HIDDEN}@", text)
    text = _SCHEME.sub(rf"\1 {HIDDEN}", text)
    text = _KNOWN.sub(HIDDEN, text)
    return _NAMED.sub(rf"\g<name>{HIDDEN}", text)
