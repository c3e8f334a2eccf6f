"""What an HTTP request comes down to for the core, and what is told of it as it runs: plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipway_engine.core.messages import NewRequest, Pooling, TokenLogprob
from slipway_engine.sampling import SamplingParams
from slipway_engine.tokenizer.detokenize import TextStream


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; `text` is None where the client sent token ids."""

    token_ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What to generate: `sampling.n` choices for each prompt, numbered prompt by prompt."""

    request_id: str
    prompts: Sequence[Prompt]
    sampling: SamplingParams
    new_text: Callable[[Prompt], TextStream]
    arrival: float
    priority: int = 0
    cache_salt: str = ""
    prompt_logprobs: int | None = None
    deadline: float | None = None
    pooling: Pooling | None = None

    @property
    def choices(self) -> int:
        """How many choices the answer has."""
        return len(self.prompts) * self.sampling.n

    def requests(self) -> list[NewRequest]:
        """Return one request for each prompt. Raises RequestError."""
        return [
            NewRequest(
                f"{self.request_id}-{at}",
                prompt.token_ids,
                self.sampling,
                self.arrival,
                self.priority,
                self.cache_salt,
                self.prompt_logprobs,
                self.deadline,
                self.pooling,
            )
            for at, prompt in enumerate(self.prompts)
        ]


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one choice. `finish_reason` and `stop_reason` come with the last.

    `prompt_logprobs` come with a choice's first delta, where they were asked for: one for each token of the
    prompt but the first.
    """

    index: int
    text: str
    logprobs: Sequence[TokenLogprob] = ()
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: Sequence[TokenLogprob] | None = None
    embedding: tuple[float, ...] | None = None


@dataclass(slots=True)
class Usage:
    """Tokens of a request. Prompts count once each, whatever `n` is."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def as_json(self) -> dict[str, object]:
        """Return the object that answers carry."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def as_log(self) -> dict[str, object]:
        """Return the figures for a log line."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }
