"""`text_completion`, whole and in chunks, with the prompt in front where it is to be echoed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from slipway_engine.core.messages import TokenLogprob
from slipway_engine.server.formats import Choice, Chunks, Head, body, scored_prompt, stop_reason
from slipway_engine.server.job import Delta, Prompt, Usage
from slipway_engine.tokenizer.tokenizer import Tokenizer


class CompletionFormat:
    """How completions are written. `echoed`: the prompts to show; choice i belongs to prompt i // n."""

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        *,
        logprobs: bool,
        with_usage: bool,
        prompt_logprobs: bool,
        echoed: Sequence[Prompt] = (),
        n: int = 1,
    ) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._prompt_logprobs = prompt_logprobs
        self._echoed = echoed
        self._n = n
        self._chunks = Chunks(head, "text_completion", with_usage=with_usage)
        self._offsets: dict[int, int] = {}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """Return the body of an answer that is not streamed."""
        return body(
            self._head, "text_completion", [self._choice(*each) for each in enumerate(choices)], usage
        )

    def opening(self, choices: int) -> bytes:
        """Return nothing: completions have no opening."""
        return b""

    def chunk(self, delta: Delta) -> bytes:
        """Return the chunk for a delta."""
        text = self._echo(delta.index) + delta.text
        scored = self._logprobs_object(delta.index, delta.logprobs, delta.prompt_logprobs)
        logprobs = "null" if scored is None else json.dumps(scored)
        return self._chunks.event(
            f'{{"index":{delta.index},"text":{json.dumps(text)},"logprobs":{logprobs},'
            f'"finish_reason":{json.dumps(delta.finish_reason)}{stop_reason(delta)}}}'
        )

    def usage_chunk(self, usage: Usage) -> bytes:
        """Return the chunk that reports the usage."""
        return self._chunks.usage(usage)

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        written = {
            "index": index,
            "text": self._echo(index) + "".join(choice.text),
            "logprobs": self._logprobs_object(index, choice.logprobs, choice.prompt_logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self._prompt_logprobs:
            written["prompt_logprobs"] = scored_prompt(self._tokenizer, choice.prompt_logprobs)
        return written

    def _echo(self, index: int) -> str:
        """Return the prompt's text the first time that the choice is written."""
        if not self._echoed or index in self._offsets:
            return ""
        self._offsets[index] = 0
        prompt = self._echoed[index // self._n]
        if prompt.text is not None:
            return prompt.text
        return self._tokenizer.decode(prompt.token_ids, skip_special_tokens=False)

    def _logprobs_object(
        self, index: int, logprobs: Sequence[TokenLogprob], scores: Sequence[TokenLogprob] | None
    ) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        entries: list[TokenLogprob] = [*(scores or ()), *logprobs] if self._echoed else list(logprobs)
        # Nothing comes before a prompt's first token, so it has no probability.
        unscored = [] if not self._echoed or scores is None else [self._first_token(index)]
        tokens = [*unscored, *(self._tokenizer.token_text(entry.token_id) for entry in entries)]
        offsets, offset = [], self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        self._offsets[index] = offset
        return {
            "tokens": tokens,
            "token_logprobs": [*(None for _ in unscored), *(entry.logprob for entry in entries)],
            "top_logprobs": [*(None for _ in unscored), *(self._top(entry) for entry in entries)],
            "text_offset": offsets,
        }

    def _first_token(self, index: int) -> str:
        return self._tokenizer.token_text(self._echoed[index // self._n].token_ids[0])

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """Return the alternatives by text; of two that look the same the likelier stays."""
        texts: dict[str, float] = {}
        for token_id, logprob in ((entry.token_id, entry.logprob), *entry.top):
            text = self._tokenizer.token_text(token_id)
            texts[text] = max(logprob, texts.get(text, logprob))
        return texts
