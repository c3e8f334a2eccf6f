"""The names of full KV blocks: a SHA-256 chain over everything that the block's content depends on.

A block's digest covers its tokens and, through its parent, all tokens before them; the root covers the salt
and the facts of the model. It is the same in every process and on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from struct import pack


def root(salt: str, *facts: object) -> bytes:
    """Return the digest that a chain starts from."""
    state = sha256()
    for part in (salt, *map(str, facts)):
        encoded = part.encode()
        state.update(pack("<Q", len(encoded)) + encoded)
    return state.digest()


def extend(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Return the digest of the block that holds `tokens` after `parent`."""
    return sha256(parent + pack(f"<{len(tokens)}I", *tokens)).digest()
