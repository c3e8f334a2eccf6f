"""An answer's body, as far as it keeps to a bound: whoever answers may be anybody."""

from __future__ import annotations

import aiohttp


async def bounded(content: aiohttp.StreamReader, most: int) -> bytes | None:
    """Return a body of at most `most` bytes; None where there is more of it."""
    body = bytearray()
    async for chunk in content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)
