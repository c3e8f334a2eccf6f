"""Which metrics an expression of PromQL names."""

from __future__ import annotations

import re

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACES = re.compile(r"\{[^}]*\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_LABELS = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*(?!\s*\()(?![A-Za-z0-9_:])")
_WORDS = {
    *("by", "without", "on", "ignoring", "group_left", "group_right"),
    *("and", "or", "unless", "bool", "offset"),
}


def names_in(expr: str) -> set[str]:
    """Return the names of metrics, recorded ones too."""
    text = expr.replace("${engine}", "slipway")
    for pattern in (_STRING, _BRACES, _RANGE, _LABELS):
        text = pattern.sub(" ", text)
    text = re.sub(r"\b[0-9][0-9.e]*\b", " ", text)
    called = set(re.findall(r"([A-Za-z_]\w*)\s*\(", text))
    return {name for name in _NAME.findall(text) if name not in _WORDS | called}
