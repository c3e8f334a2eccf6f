"""What a request will cost, before any engine has said so: a reservation, settled by the engine's own count.

The gateway has no tokenizers: a token is taken for four bytes of text, which most languages' tokenizers beat
or miss by less than half; images and sounds are not looked into. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

BYTES_A_TOKEN: Final = 4
TOKENS_A_MESSAGE: Final = 4
ANSWER_TOKENS: Final = 512
"""Reserved where a request does not say how long its answer may be."""
MAX_CHOICES: Final = 128


class Members(Protocol):
    """A request's body."""

    def get(self, name: str) -> Any:
        """Return the value of a member, or None."""


def prompt_tokens(body: Members) -> int:
    """Return about how many tokens a request's prompt has."""
    messages = body.get("messages")
    if isinstance(messages, list):
        return sum(TOKENS_A_MESSAGE + _of_message(message) for message in messages)
    prompt = body.get("prompt")
    return _of(body.get("input") if prompt is None else prompt)


def answer_tokens(body: Members) -> int:
    """Return how many tokens all of a request's answers may have."""
    if body.get("messages") is None and body.get("prompt") is None:
        return 0  # an embedding
    given = (body.get("max_completion_tokens"), body.get("max_tokens"))
    most = next((n for n in given if _count(n)), ANSWER_TOKENS)
    choices = max((n for n in (body.get("n"), body.get("best_of")) if _count(n)), default=1)
    return int(most * min(choices, MAX_CHOICES))


def _of_message(message: Any) -> int:
    if not isinstance(message, dict):
        return 0
    content = message.get("content")
    if isinstance(content, list):
        return sum(_text(part.get("text")) for part in content if isinstance(part, dict))
    return _text(content)


def _of(value: Any) -> int:
    """Return the tokens of a text, of token ids, or of a list of either."""
    if isinstance(value, list):
        return sum(1 if isinstance(item, int) else _of(item) for item in _flat(value))
    return _text(value)


def _flat(value: list[Any]) -> Iterator[Any]:
    for item in value:
        if isinstance(item, list):
            yield from (inner for inner in item if not isinstance(inner, list))
        else:
            yield item


def _text(value: Any) -> int:
    if not isinstance(value, str):
        return 0
    size = len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    return -(-size // BYTES_A_TOKEN)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
