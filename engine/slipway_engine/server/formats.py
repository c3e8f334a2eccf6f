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
from slipway_engine.server.generation import Delta, Usage
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

    def add(self, delta: Delta) -> None:
        """Append what is new."""
        self.text.append(delta.text)
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason


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


class _Chunks:
    """The parts of a chunk that stay the same."""

    def __init__(self, head: Head, kind: str, *, with_usage: bool) -> None:
        self._before = (
            f'{{"id":{json.dumps(head.id)},"object":"{kind}","created":{head.created},'
            f'"model":{json.dumps(head.model)},"choices":['
        )
        self._after = '],"usage":null}' if with_usage else "]}"

    def event(self, choice: str) -> bytes:
        return event(f"{self._before}{choice}{self._after}")

    def usage(self, usage: Usage) -> bytes:
        return event(f'{self._before}],"usage":{json.dumps(usage.as_json())}}}')


class ChatFormat:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, head: Head, tokenizer: Tokenizer, *, logprobs: bool, with_usage: bool) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._chunks = _Chunks(head, "chat.completion.chunk", with_usage=with_usage)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """Return the body of an answer that is not streamed."""
        return _body(
            self._head, "chat.completion", [self._choice(*each) for each in enumerate(choices)], usage
        )

    def opening(self, choices: int) -> bytes:
        """Return the chunks that name the speaker."""
        delta = '{"role":"assistant","content":""}'
        return b"".join(
            self._chunks.event(f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}')
            for index in range(choices)
        )

    def chunk(self, delta: Delta) -> bytes:
        """Return the chunk for a delta."""
        content = f'{{"content":{json.dumps(delta.text)}}}' if delta.text or not delta.finish_reason else "{}"
        return self._chunks.event(
            f'{{"index":{delta.index},"delta":{content},"logprobs":{self._logprobs_json(delta.logprobs)},'
            f'"finish_reason":{json.dumps(delta.finish_reason)}{_stop_reason(delta)}}}'
        )

    def usage_chunk(self, usage: Usage) -> bytes:
        """Return the chunk that reports the usage."""
        return self._chunks.usage(usage)

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(choice.text), "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": [self._entry(each) for each in choice.logprobs]}
            if self._logprobs
            else None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def _logprobs_json(self, logprobs: Sequence[TokenLogprob]) -> str:
        if not self._logprobs:
            return "null"
        return json.dumps({"content": [self._entry(each) for each in logprobs]})

    def _entry(self, entry: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in entry.top]
        return {**self._token(entry.token_id, entry.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        spelled = self._tokenizer.token_bytes(token_id)
        return {"token": spelled.decode(errors="replace"), "logprob": logprob, "bytes": list(spelled)}


class CompletionFormat:
    """`text_completion`, whole and in chunks."""

    def __init__(self, head: Head, tokenizer: Tokenizer, *, logprobs: bool, with_usage: bool) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._chunks = _Chunks(head, "text_completion", with_usage=with_usage)
        self._offsets: dict[int, int] = {}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """Return the body of an answer that is not streamed."""
        return _body(
            self._head, "text_completion", [self._choice(*each) for each in enumerate(choices)], usage
        )

    def opening(self, choices: int) -> bytes:
        """Return nothing: completions have no opening."""
        return b""

    def chunk(self, delta: Delta) -> bytes:
        """Return the chunk for a delta."""
        logprobs = json.dumps(self._logprobs_object(delta.index, delta.logprobs))
        return self._chunks.event(
            f'{{"index":{delta.index},"text":{json.dumps(delta.text)},"logprobs":{logprobs},'
            f'"finish_reason":{json.dumps(delta.finish_reason)}{_stop_reason(delta)}}}'
        )

    def usage_chunk(self, usage: Usage) -> bytes:
        """Return the chunk that reports the usage."""
        return self._chunks.usage(usage)

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        return {
            "index": index,
            "text": "".join(choice.text),
            "logprobs": self._logprobs_object(index, choice.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def _logprobs_object(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        tokens = [self._tokenizer.token_text(entry.token_id) for entry in logprobs]
        offsets, offset = [], self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        self._offsets[index] = offset
        return {
            "tokens": tokens,
            "token_logprobs": [entry.logprob for entry in logprobs],
            "top_logprobs": [self._top(entry) for entry in logprobs],
            "text_offset": offsets,
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """Return the alternatives by text; of two that look the same the likelier stays."""
        texts: dict[str, float] = {}
        for token_id, logprob in ((entry.token_id, entry.logprob), *entry.top):
            text = self._tokenizer.token_text(token_id)
            texts[text] = max(logprob, texts.get(text, logprob))
        return texts


def _body(head: Head, kind: str, choices: list[dict[str, Any]], usage: Usage) -> bytes:
    return json.dumps(
        {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "choices": choices,
            "usage": usage.as_json(),
        }
    ).encode()


def _stop_reason(delta: Delta) -> str:
    return f',"stop_reason":{json.dumps(delta.stop_reason)}' if delta.finish_reason else ""
