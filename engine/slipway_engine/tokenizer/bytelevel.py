"""The byte alphabet of byte-level BPE: each of the 256 bytes is written as one printable character."""

from __future__ import annotations


def _alphabet() -> dict[str, int]:
    """Return character -> byte. Printable Latin-1 stands for itself, the others for 256 and up, in order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


CHARACTER_TO_BYTE = _alphabet()


def token_bytes(token: str) -> bytes:
    """Return the bytes a token stands for; one with a character outside the alphabet is literal text."""
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in token)
    except KeyError:
        return token.encode()
