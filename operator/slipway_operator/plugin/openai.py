"""The OpenAI API of one deployment, as a client: streams of text with what the usage says."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from slipway_operator.plugin.errors import PluginError

CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Piece:
    """One event of a stream: text, or the usage at its end. `at` is `time.monotonic()`."""

    text: str
    at: float
    completion_tokens: int | None = None


class Client:
    """Talks to one base URL. `key` is the API key of a gateway's tenant."""

    def __init__(self, session: aiohttp.ClientSession, base: str, key: str | None = None) -> None:
        self._session = session
        self._base = base.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def models(self) -> list[str]:
        """Return the served names."""
        async with self._session.get(f"{self._base}/v1/models", headers=self._headers) as response:
            body = await _json(response)
        return [str(entry["id"]) for entry in body.get("data") or ()]

    async def chat(
        self, model: str, messages: Sequence[Mapping[str, str]], **options: Any
    ) -> AsyncIterator[Piece]:
        """Yield the pieces of an answer as they come. Raises PluginError with the server's own sentence."""
        body = {"model": model, "messages": list(messages), "stream": True, **options}
        body["stream_options"] = {"include_usage": True}
        url = f"{self._base}/v1/chat/completions"
        try:
            async with self._session.post(url, json=body, headers=self._headers) as response:
                if response.status != 200:
                    raise PluginError(_refusal(response.status, await response.text()))
                async for line in response.content:
                    piece = _piece(line)
                    if piece is not None:
                        yield piece
        except (TimeoutError, aiohttp.ClientError) as error:
            raise PluginError(f"The connection broke: {type(error).__name__}: {error}.") from error


def session() -> aiohttp.ClientSession:
    """Return a session whose streams may last as long as they bring something."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


def _piece(line: bytes) -> Piece | None:
    text = line.strip()
    if not text.startswith(b"data:") or text.endswith(b"[DONE]"):
        return None
    event = json.loads(text[5:])
    if "error" in event:
        raise PluginError(str((event["error"] or {}).get("message") or event["error"]))
    usage = event.get("usage") or {}
    choices = event.get("choices") or ()
    content = str((choices[0].get("delta") or {}).get("content") or "") if choices else ""
    return Piece(content, time.monotonic(), usage.get("completion_tokens"))


async def _json(response: aiohttp.ClientResponse) -> Mapping[str, Any]:
    text = await response.text()
    if response.status != 200:
        raise PluginError(_refusal(response.status, text))
    parsed: Mapping[str, Any] = json.loads(text)
    return parsed


def _refusal(status: int, text: str) -> str:
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text[:300]
    return f"The server answered {status}: {message}"
