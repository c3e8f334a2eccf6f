"""Vocabularies in which each token is a run of bytes, told by their decoder: two alphabets, one idea.

Byte-level BPE writes each byte as one printable character. SentencePiece with byte fallback writes text as it
is, a blank as U+2581, and a byte by itself as `<0x0A>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tokenizers

from slipway_engine.tokenizer.bytelevel import token_bytes

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


@dataclass(frozen=True, slots=True)
class Alphabet:
    """`spell` gives a token's bytes; `strips`: a whole text's first blank is dropped."""

    spell: Callable[[str], bytes]
    strips: bool = False


def alphabet_of(backend: tokenizers.Tokenizer) -> Alphabet | None:
    """Return the alphabet of a tokenizer, or None where its tokens have no bytes of their own."""
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    parts = decoder.get("decoders", [decoder])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"]:
        return Alphabet(token_bytes)
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and _is_blank(parts[0]):
        if not parts[3:]:
            return Alphabet(_piece_bytes)
        if parts[3:] == [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]:
            return Alphabet(_piece_bytes, strips=True)
    return None


def keeps_length(backend: tokenizers.Tokenizer) -> bool:
    """Return whether the tokens of a text spell at least as many bytes as the text has."""
    normalizer = json.loads(backend.normalizer.__getstate__()) if backend.normalizer is not None else {}
    parts = normalizer.get("normalizers", [normalizer] if normalizer else [])
    return all(part.get("type") == "Prepend" or _is_escape(part) for part in parts)


def _is_escape(part: dict[str, Any]) -> bool:
    return part.get("pattern") == {"String": " "} and part.get("content") == _SPACE


def _is_blank(part: dict[str, Any]) -> bool:
    return part.get("pattern") == {"String": _SPACE} and part.get("content") == " "


def _piece_bytes(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()
