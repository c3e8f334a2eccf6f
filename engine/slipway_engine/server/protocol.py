"""The fields of OpenAI's requests that this server knows, and what becomes of each.

A field is honoured or refused with a sentence; none is ignored in silence, except those that only label a
request (`user` and the like). Defaults are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway_engine.errors import RequestError
from slipway_engine.sampling import MAX_LOGPROBS, SamplingParams
from slipway_engine.server.messages import ChatMessage, Name, Tool

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 512
MAX_STOP_IDS = 128
MAX_N = 128
MAX_BIASES = 1024
MAX_TOOLS = 128

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
TokenIds = Annotated[list[int], Field(max_length=MAX_STOP_IDS)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class StreamOptions(BaseModel):
    """What a stream carries besides its text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class _Common(BaseModel):
    """Fields of both kinds of completion."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Name | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)] | list[StopString] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES)] | None = None
    seed: int | None = None
    timeout: Seconds | None = (
        None  # the request then ends with 504; the header X-Request-Timeout does the same
    )

    # vLLM's extensions
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    use_beam_search: bool | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31)] | None = None
    cache_salt: Name | None = None

    # labels: they change nothing about the answer
    user: Name | None = None
    safety_identifier: Name | None = None
    prompt_cache_key: Name | None = None
    metadata: dict[Name, Name] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    def stops(self) -> list[str]:
        """Return the stop strings."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS:
            raise RequestError(
                f"stop has {len(stops)} strings; at most {MAX_STOPS} are allowed.", param="stop"
            )
        return [stop for stop in stops if stop]

    def usage_in_stream(self) -> bool:
        """Return whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def wanted_logprobs(self) -> int | None:
        """Return how many alternatives to report for each token; None for no log-probabilities at all."""
        raise NotImplementedError

    def wanted_prompt_logprobs(self) -> int | None:
        """Return how many alternatives to compute for each token of the prompt; None for nothing of it."""
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError(
                "prompt_logprobs does not go with stream: true; leave one out.", param="prompt_logprobs"
            )
        return self.prompt_logprobs

    def sampling(self, max_tokens: int, vocab_size: int, defaults: Mapping[str, Any]) -> SamplingParams:
        """Return what the core is to do; `defaults` hold where the request is silent. Raises RequestError."""
        width = self._beam_width()
        # A search takes the most likely tokens: what is meant for sampling does not concern it.
        values = dict(defaults) if width is None else {"temperature": 0.0}
        values |= {name: value for name in _PASSED_ON if (value := getattr(self, name)) is not None}
        return SamplingParams(
            max_tokens=max_tokens,
            logprobs=self.wanted_logprobs(),
            stop_token_ids=_within("stop_token_ids", tuple(self.stop_token_ids or ()), vocab_size),
            logit_bias=_bias(self.logit_bias or {}, vocab_size),
            beam_width=width,
            **values,
        )

    def _beam_width(self) -> int | None:
        """Return the number of beams: `beam_width`, or `n` as with vLLM; None where nothing is searched."""
        if self.use_beam_search:
            return self.beam_width or self.n or 1
        for name in ("beam_width", "length_penalty", "early_stopping"):
            if getattr(self, name) is not None:
                raise RequestError(f"{name} needs use_beam_search: true.", param=name)
        return None


_PASSED_ON = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "seed", "ignore_eos", "min_tokens", "n", "best_of", "length_penalty", "early_stopping",
)  # fmt: skip


class CompletionRequest(_Common):
    """POST /v1/completions. `prompt`: a text, a list of texts, a list of token ids, or a list of those."""

    prompt: Any
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    def wanted_logprobs(self) -> int | None:
        """Return how many alternatives to report for each token."""
        return self.logprobs

    def wanted_prompt_logprobs(self) -> int | None:
        """Return how many alternatives to compute for each token of the prompt; None for nothing of it."""
        wanted = super().wanted_prompt_logprobs()
        if not self.echo or (self.logprobs is None and self.max_tokens != 0):
            return wanted
        return max(wanted or 0, self.logprobs or 0)


class ChatRequest(_Common):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    modalities: list[Literal["text"]] | None = None
    chat_template_kwargs: dict[Name, Any] | None = None

    def wanted_logprobs(self) -> int | None:
        """Return how many alternatives to report for each token."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true.", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def offered_tools(self) -> list[Tool]:
        """Return the tools that the model may call in this answer. Raises RequestError."""
        if self.tool_choice not in (None, "auto", "none"):
            raise RequestError(
                "tool_choice can be 'auto' or 'none': this server constrains no answers, so it can force no "
                "call. Send 'auto' and ask for the call in a message.",
                param="tool_choice",
                code="unsupported_value",
            )
        tools = self.tools or []
        for at, tool in enumerate(tools):
            if tool.function.strict:
                raise RequestError(
                    f"tools.{at}.function.strict is true: this server constrains no answers, so "
                    "arguments may miss their schema. Leave strict out, and check what comes.",
                    param="tools",
                    code="unsupported_value",
                )
        return [] if self.tool_choice == "none" else tools


class TokenizeRequest(BaseModel):
    """POST /tokenize: a text, or messages to be put through the chat template."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[Name, Any] | None = None
    return_token_strs: bool | None = None


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings. `input`: a text, a list of texts, a list of token ids, or a list of those."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Name | None = None
    input: Any
    encoding_format: Literal["float", "base64"] | None = None
    add_special_tokens: bool | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31)] | None = None
    cache_salt: Name | None = None
    timeout: Seconds | None = None
    user: Name | None = None


class ProfileRequest(BaseModel):
    """POST /debug/profile: how many steps to trace, and how long to wait for them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: Annotated[int, Field(ge=1, le=100)] = 20
    seconds: Annotated[float, Field(gt=0, le=300)] = 30.0


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Name | None = None
    tokens: list[int]


def _bias(given: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    ids = {}
    for key, bias in given.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise RequestError(
                f"logit_bias has the key {key[:40]!r}; keys are token ids.", param="logit_bias"
            )
        ids[int(key)] = bias
    _within("logit_bias", tuple(ids), vocab_size)
    return ids


def _within(name: str, token_ids: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            shown = token_id if abs(token_id) < 10**12 else "far outside"
            raise RequestError(
                f"{name} has the token id {shown}; the vocabulary's are 0 to {vocab_size - 1}.", param=name
            )
    return token_ids
