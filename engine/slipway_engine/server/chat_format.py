"""`chat.completion` and `chat.completion.chunk`: text, thinking, calls of tools, log-probabilities."""

from __future__ import annotations

import json
import secrets
import string
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from slipway_engine.core.messages import TokenLogprob
from slipway_engine.server.formats import Choice, Chunks, Head, body, scored_prompt, stop_reason
from slipway_engine.server.job import Delta, Usage
from slipway_engine.server.reader import AnswerReader, Part
from slipway_engine.server.reasoning import Reasoning
from slipway_engine.server.tools.events import Arguments, CallBegan, Content
from slipway_engine.tokenizer.tokenizer import Tokenizer

NewReader = Callable[[], AnswerReader]
_CHARACTERS = string.ascii_letters + string.digits


class ChatFormat:
    """How chats are written. `new_reader`: what parts an answer that may think, or call tools."""

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        *,
        logprobs: bool,
        with_usage: bool,
        prompt_logprobs: bool,
        new_reader: NewReader | None = None,
        id_length: int | None = None,
    ) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._prompt_logprobs = prompt_logprobs
        self._new_reader = new_reader
        self._id_length = id_length
        self._readers: dict[int, AnswerReader] = {}
        self._chunks = Chunks(head, "chat.completion.chunk", with_usage=with_usage)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """Return the body of an answer that is not streamed."""
        others: dict[str, object] = {}
        if self._prompt_logprobs:
            others["prompt_logprobs"] = scored_prompt(self._tokenizer, choices[0].prompt_logprobs)
        written = [self._choice(*each) for each in enumerate(choices)]
        return body(self._head, "chat.completion", written, usage, **others)

    def opening(self, choices: int) -> bytes:
        """Return the chunks that name the speaker."""
        delta = '{"role":"assistant","content":""}'
        return b"".join(
            self._chunks.event(f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}')
            for index in range(choices)
        )

    def chunk(self, delta: Delta) -> bytes:
        """Return the chunk for a delta."""
        if self._new_reader is None:
            return self._write(delta, f'{{"content":{json.dumps(delta.text)}}}' if delta.text else "{}")
        events = self._read(delta.index, delta.text, delta.finish_reason)
        finish = self._finish(delta.index, delta.finish_reason)
        # The last event goes with what ends the choice, and the first with the log-probabilities.
        parts = [self._part(event) for event in events] or [{}]
        written = [Delta(delta.index, "", delta.logprobs)] + [Delta(delta.index, "")] * (len(parts) - 1)
        written[-1] = Delta(delta.index, "", written[-1].logprobs, finish, delta.stop_reason)
        if not events and not delta.logprobs and finish is None:
            return b""
        return b"".join(
            self._write(each, json.dumps(part)) for each, part in zip(written, parts, strict=True)
        )

    def usage_chunk(self, usage: Usage) -> bytes:
        """Return the chunk that reports the usage."""
        return self._chunks.usage(usage)

    def _write(self, delta: Delta, part: str) -> bytes:
        return self._chunks.event(
            f'{{"index":{delta.index},"delta":{part},'
            f'"logprobs":{self._logprobs_json(delta.logprobs)},'
            f'"finish_reason":{json.dumps(delta.finish_reason)}{stop_reason(delta)}}}'
        )

    # Thinking and tools

    def _read(self, index: int, text: str, finish: str | None) -> list[Part]:
        """Return what a choice's new text, and its end, make certain."""
        assert self._new_reader is not None
        if index not in self._readers:
            self._readers[index] = self._new_reader()
        reader = self._readers[index]
        return reader.feed(text) + (reader.finish(cut=finish == "length") if finish is not None else [])

    def _finish(self, index: int, finish: str | None) -> str | None:
        called = index in self._readers and self._readers[index].called
        return "tool_calls" if called and finish == "stop" else finish

    def _part(self, event: Part) -> dict[str, Any]:
        """Return a chunk's delta."""
        match event:
            case Reasoning(text):
                return {"reasoning_content": text}
            case Content(text):
                return {"content": text}
            case CallBegan(index, name):
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": self._new_id(), "type": "function", "function": function}
                return {"tool_calls": [call]}
            case Arguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

    def _new_id(self) -> str:
        if self._id_length is not None:
            return "".join(secrets.choice(_CHARACTERS) for _ in range(self._id_length))
        return f"call_{uuid.uuid4().hex[:24]}"

    # Whole answers

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message, finish = self._message(index, choice)
        entries = [self._entry(each) for each in choice.logprobs]
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": entries} if self._logprobs else None,
            "finish_reason": finish,
            "stop_reason": choice.stop_reason,
        }

    def _message(self, index: int, choice: Choice) -> tuple[dict[str, Any], str | None]:
        text = "".join(choice.text)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._new_reader is None:
            return message, choice.finish_reason
        texts, thoughts, calls = [], [], []
        for event in self._read(index, text, choice.finish_reason):
            match event:
                case Reasoning(more):
                    thoughts.append(more)
                case Content(more):
                    texts.append(more)
                case CallBegan(_, name):
                    function = {"name": name, "arguments": ""}
                    calls.append({"id": self._new_id(), "type": "function", "function": function})
                case Arguments(_, more):
                    function["arguments"] += more
        message["content"] = "".join(texts) or (None if calls else "")
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        return message, self._finish(index, choice.finish_reason)

    # Log-probabilities

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
