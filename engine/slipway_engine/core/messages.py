"""What crosses the line between the HTTP process and the core process: small frozen records.

Requests go down, one `StepOutput` a step comes up. Nothing here is ever pickled: `encode` and `decode` use
MessagePack, a record is `[name, [value of each field, in order]]`, and `decode` builds only the records named
in this file. Both ends are always the same installation, so fields need no names on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from slipway_engine.config import EngineConfig
from slipway_engine.errors import RequestError
from slipway_engine.sampling import MAX_LOGPROBS, SamplingParams

FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]
Pooling: TypeAlias = Literal["last", "mean", "cls"]


@dataclass(frozen=True, slots=True)
class Start:
    """The first message down: load this model with these settings."""

    config: EngineConfig


@dataclass(frozen=True, slots=True)
class NewRequest:
    """One prompt and what to make of it. `arrival` is `time.monotonic()` at the HTTP side, in seconds.

    `priority`: smaller runs first (FCFS within one value). `cache_salt` separates the prefix caches of
    tenants. `prompt_logprobs` asks for the log-probability of each prompt token after the first, and that
    many alternatives. When the clock passes `deadline` the request ends with the code "deadline_exceeded".
    With `pooling` nothing is generated: the answer is the prompt's embedding.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    arrival: float
    priority: int = 0
    cache_salt: str = ""
    prompt_logprobs: int | None = None
    deadline: float | None = None
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        """Refuse what does not go together, naming the field."""
        if self.prompt_logprobs is not None:
            self._check_scores(self.prompt_logprobs)
        elif self.pooling is None and self.sampling.max_tokens == 0:
            raise RequestError(
                "max_tokens is 0; it must be at least 1, except where prompt_logprobs is asked for.",
                param="max_tokens",
            )

    @property
    def generates(self) -> bool:
        """True where output tokens are wanted."""
        return self.pooling is None and self.sampling.max_tokens > 0

    def _check_scores(self, alternatives: int) -> None:
        if not 0 <= alternatives <= MAX_LOGPROBS:
            raise RequestError(
                f"prompt_logprobs is {alternatives}; it must be at least 0 and at most {MAX_LOGPROBS}.",
                param="prompt_logprobs",
            )
        if self.pooling is not None:
            raise RequestError(
                "prompt_logprobs does not go with an embedding; leave it out.", param="prompt_logprobs"
            )


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop these requests at once and free what they hold; unknown ids are ignored.

    `choices` names (request, index): that choice alone stops, without an output; the request's others go on.
    """

    request_ids: tuple[str, ...]
    choices: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """Trace the next `steps` steps into the file `path`; with 0 steps, end the trace that is being taken."""

    path: str
    steps: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Leave the core loop; what still runs is aborted."""


class TokenLogprob(NamedTuple):
    """The chosen token's natural-log probability, and the most likely alternatives, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class RequestOutput(NamedTuple):
    """What one step brought for choice `index` of one request.

    A request is over when each of its `n` choices has a `finish_reason`; "abort" and "error" end all of them
    at once, whatever the index. `stop_reason` is the stop token's id where one of `stop_token_ids` ended it.
    `cached_tokens`, `queue_seconds` and `prefill_seconds` are set with the first token of choice 0.
    `prompt_logprobs` come in pieces, with index 0, before its first token: the first entry of the first piece
    is the prompt's second token. With `best_of` > `n` or beams each choice is one output, best first.
    An embedding request has one output, with `embedding` and the reason "stop". `error` is a sentence, set
    with `finish_reason` "error"; `error_param`, `error_code`, `error_status` and `retry_after` are the
    `RequestError`'s.
    """

    request_id: str
    new_token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    error: str | None = None
    error_param: str | None = None
    error_code: str = "internal_error"
    error_status: int = 500
    index: int = 0  # type: ignore[assignment]  # in place of a tuple's own method, which nobody needs
    embedding: tuple[float, ...] | None = None
    retry_after: float | None = None


class CoreStats(NamedTuple):
    """Gauges and lifetime counters of the core, as of the end of a step. Names follow vLLM's metrics.

    `step_seconds` is the duration of the last step. `ranks` are rows of `parallel.counts`, once a second and
    where several processes compute; empty means as before.
    """

    num_requests_running: int = 0
    num_requests_waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    num_preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    ranks: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """All that one step brought, and the state after it."""

    outputs: tuple[RequestOutput, ...] = ()
    stats: CoreStats = field(default_factory=CoreStats)


@dataclass(frozen=True, slots=True)
class Ready:
    """The core has loaded the model. Limits are in tokens; `load_seconds` maps a phase's name to seconds.

    `pooling` is set where the model makes embeddings, and only those. `memory` is the ledger, bytes by part.
    """

    max_model_len: int
    vocab_size: int
    num_kv_blocks: int
    block_size: int
    max_num_seqs: int
    dtype: str
    device: str
    eos_token_ids: tuple[int, ...]
    load_seconds: dict[str, float] = field(default_factory=dict)
    pooling: Pooling | None = None
    memory: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profiled:
    """A trace is complete: `steps` are in the file `path`, or `error` is the sentence that says why not."""

    path: str
    steps: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The core could not start or cannot go on; `reason` is an `EngineError.reason`."""

    reason: str
    message: str


Message: TypeAlias = Start | NewRequest | Abort | Profile | Shutdown | StepOutput | Ready | Profiled | Failed

_MESSAGES: tuple[type[Any], ...] = (
    Start, NewRequest, Abort, Profile, Shutdown, StepOutput, Ready, Profiled, Failed,
)  # fmt: skip
_PARTS: tuple[type[Any], ...] = (EngineConfig, SamplingParams)


def _reader_of_fields(record: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what turns a record into the tuple of its fields' values."""
    names = [f.name for f in fields(record)]
    if len(names) > 1:
        return attrgetter(*names)
    if names:
        only = attrgetter(names[0])
        return lambda value: (only(value),)
    return lambda value: ()


_FIELDS = {record: _reader_of_fields(record) for record in (*_MESSAGES, *_PARTS)}
_NAMES = {record.__name__: record for record in _MESSAGES}


def encode(message: Message) -> bytes:
    """Return the message as MessagePack."""
    import msgpack  # here, so that the core can be imported where there is only torch

    packed: bytes = msgpack.packb(
        (type(message).__name__, _FIELDS[type(message)](message)), default=_part, use_bin_type=True
    )
    return packed


def decode(data: bytes) -> Message:
    """Return the record in `data`. Raises ValueError where it is none of this module's records."""
    import msgpack

    try:
        name, values = msgpack.unpackb(data, raw=False, strict_map_key=False, use_list=False)
        record = _NAMES[name]
        message: Message = _BUILD.get(record, record)(*values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"These {len(data)} bytes are no message of the engine core: {error!r}.") from error
    return message


def _part(value: object) -> object:
    """Return what MessagePack can hold for a value that it does not know."""
    if isinstance(value, Path):
        return str(value)
    return _FIELDS[type(value)](value)


def _start(config: tuple[Any, ...]) -> Start:
    model, *others = config
    return Start(EngineConfig(Path(model), *others))


def _new_request(
    request_id: str, prompt: tuple[int, ...], sampling: tuple[Any, ...], *others: Any
) -> NewRequest:
    return NewRequest(request_id, prompt, SamplingParams(*sampling), *others)


def _step_output(outputs: tuple[tuple[Any, ...], ...], stats: tuple[Any, ...]) -> StepOutput:
    return StepOutput(tuple(_request_output(*output) for output in outputs), CoreStats(*stats))


def _request_output(
    request_id: str,
    token_ids: tuple[int, ...],
    logprobs: tuple[tuple[Any, ...], ...],
    prompt_logprobs: tuple[tuple[Any, ...], ...],
    *others: Any,
) -> RequestOutput:
    return RequestOutput(
        request_id,
        token_ids,
        tuple(TokenLogprob(*entry) for entry in logprobs),
        tuple(TokenLogprob(*entry) for entry in prompt_logprobs),
        *others,
    )


_BUILD: dict[type[Any], Callable[..., Any]] = {
    Start: _start,
    NewRequest: _new_request,
    StepOutput: _step_output,
}
