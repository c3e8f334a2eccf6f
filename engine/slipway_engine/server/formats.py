"""The bodies of answers, whole and in pieces, as OpenAI's API writes them.

A stream's chunk is the same text each time but for a few values, so it is put together from strings; building
and serialising an object tree for every token would cost several times as much.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from slipway_engine.core.messages import TokenLogprob
from slipway_engine.server.job import Delta, Usage
from slipway_engine.tokenizer.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What every piece of one answer repeats."""

    id: str
    created: int
    model: str


@dataclass(slots=True)
class Choice:
    """One finished sequence, gathered from its deltas."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: Sequence[TokenLogprob] | None = None

    def add(self, delta: Delta) -> None:
        """Append what is new."""
        self.text.append(delta.text)
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs


class Format(Protocol):
    """How one kind of answer is written."""

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """Return the body of an answer that is not streamed."""

    def opening(self, choices: int) -> bytes:
        """Return the chunks that come before any text."""

    def chunk(self, delta: Delta) -> bytes:
        """Return the chunk for a delta."""

    def usage_chunk(self, usage: Usage) -> bytes:
        """Return the chunk that reports the usage."""


def event(body: str) -> bytes:
    """Return one server-sent event."""
    return f"data: {body}\n\n".encode()


class Chunks:
    """Writes a stream's chunks: their parts that stay the same are put together once."""

    def __init__(self, head: Head, kind: str, *, with_usage: bool) -> None:
        self._before = (
            f'{{"id":{json.dumps(head.id)},"object":"{kind}","created":{head.created},'
            f'"model":{json.dumps(head.model)},"choices":['
        )
        self._after = '],"usage":null}' if with_usage else "]}"

    def event(self, choice: str) -> bytes:
        """Return the event with one choice, given as JSON."""
        return event(f"{self._before}{choice}{self._after}")

    def usage(self, usage: Usage) -> bytes:
        """Return the event that reports the usage."""
        return event(f'{self._before}],"usage":{json.dumps(usage.as_json())}}}')


def body(head: Head, kind: str, choices: list[dict[str, Any]], usage: Usage, **others: object) -> bytes:
    """Return a whole answer."""
    return json.dumps(
        {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "choices": choices,
            "usage": usage.as_json(),
            **others,
        }
    ).encode()


def stop_reason(delta: Delta) -> str:
    """Return the field `stop_reason` of a choice's last chunk, behind a comma."""
    return f',"stop_reason":{json.dumps(delta.stop_reason)}' if delta.finish_reason else ""


def scored_prompt(tokenizer: Tokenizer, scores: Sequence[TokenLogprob] | None) -> list[Any] | None:
    """Return vLLM's `prompt_logprobs`: null for the first token, then for each one its chances by token id.

    The rank of a token that is not among the alternatives is unknown, and null.
    """
    if scores is None:
        return None
    return [None, *(_chances(tokenizer, entry) for entry in scores)]


def _chances(tokenizer: Tokenizer, entry: TokenLogprob) -> dict[str, Any]:
    ranked = [(token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(entry.top, 1)]
    if entry.token_id not in [token_id for token_id, _, _ in ranked]:
        ranked.insert(0, (entry.token_id, entry.logprob, None))  # type: ignore[arg-type]
    return {
        str(token_id): {"logprob": logprob, "rank": rank, "decoded_token": tokenizer.token_text(token_id)}
        for token_id, logprob, rank in ranked
    }
