"""One HTTP request's sequences: submitted together, read as text, stopped, freed for certain."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from slipway_engine.core.messages import NewRequest, RequestOutput, TokenLogprob
from slipway_engine.errors import RequestError
from slipway_engine.process.client import CoreClient, CoreFailed
from slipway_engine.sampling import MAX_SEED, SamplingParams
from slipway_engine.server.mailbox import Mailbox
from slipway_engine.server.metrics import Metrics
from slipway_engine.tokenizer.detokenize import TextStream


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one sequence. `finish_reason` and `stop_reason` come with the last."""

    index: int
    text: str
    logprobs: Sequence[TokenLogprob] = ()
    finish_reason: str | None = None
    stop_reason: int | str | None = None


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


@dataclass(slots=True)
class _Sequence:
    """One sequence while it runs."""

    index: int
    request: NewRequest
    text: TextStream
    tokens: int = 0
    first_token: float = 0.0
    last_token: float = 0.0

    def read(self, token_ids: Sequence[int], *, last: bool) -> tuple[str, int, str | None]:
        """Return the text of new tokens, how many tokens it took, and the stop string that ended it."""
        text = ""
        for count, token_id in enumerate(token_ids, 1):
            piece = self.text.add(token_id)
            text += piece.text
            if piece.stop is not None:
                return text, count, piece.stop
        if not last:
            return text, len(token_ids), None
        piece = self.text.flush()
        return text + piece.text, len(token_ids), piece.stop


@dataclass(frozen=True, slots=True)
class Job:
    """What to generate: `n` sequences for each prompt; choices are numbered prompt by prompt."""

    request_id: str
    prompts: Sequence[Sequence[int]]
    n: int
    sampling: SamplingParams
    new_text: Callable[[], TextStream]
    arrival: float
    priority: int = 0
    cache_salt: str = ""

    def requests(self) -> list[NewRequest]:
        """Return one request for each choice."""
        return [
            NewRequest(
                f"{self.request_id}-{at * self.n + turn}",
                tuple(prompt),
                self._seeded(turn),
                self.arrival,
                self.priority,
                self.cache_salt,
            )
            for at, prompt in enumerate(self.prompts)
            for turn in range(self.n)
        ]

    def _seeded(self, turn: int) -> SamplingParams:
        """Return the sampling of one of `n` answers: each has a seed of its own, derived from it."""
        seed = self.sampling.seed
        if seed is None or turn == 0:
            return self.sampling
        return replace(self.sampling, seed=(seed + turn) % MAX_SEED)


@dataclass(slots=True, eq=False)
class Generation:
    """A job that runs."""

    job: Job
    client: CoreClient
    metrics: Metrics
    mailbox: Mailbox = field(default_factory=Mailbox)
    usage: Usage = field(default_factory=Usage)
    finishes: list[str] = field(default_factory=list)
    first_token_seconds: float | None = None
    _open: dict[str, _Sequence] = field(default_factory=dict)

    async def deltas(self) -> AsyncGenerator[Delta]:
        """Yield what is new, sequence by sequence as it comes. Raises RequestError.

        However this ends, nothing of the job is left in the core.
        """
        self.usage.prompt_tokens = sum(map(len, self.job.prompts))
        try:
            self._submit()
            while self._open:
                for output in await self.mailbox.take():
                    if (delta := self._read(output)) is not None:
                        yield delta
        finally:
            self._abandon()

    def _submit(self) -> None:
        for index, request in enumerate(self.job.requests()):
            self._open[request.request_id] = _Sequence(index, request, self.job.new_text())
            try:
                self.client.submit(request, self.mailbox.put)
            except CoreFailed as error:
                raise RequestError(str(error), code="engine_failed", status=500) from error

    def _abandon(self) -> None:
        if self._open:
            self.client.abort(tuple(self._open))
        for sequence in self._open.values():
            self._close(sequence, "abort")
        self._open.clear()

    def _read(self, output: RequestOutput) -> Delta | None:
        sequence = self._open.get(output.request_id)
        if sequence is None:  # ended at a stop string while this was on its way
            return None
        if output.error is not None:
            self._close(self._open.pop(output.request_id), "error")
            raise RequestError(
                output.error, param=output.error_param, code=output.error_code, status=output.error_status
            )
        self._time(sequence, output)
        return self._advance(sequence, output)

    def _advance(self, sequence: _Sequence, output: RequestOutput) -> Delta | None:
        # The token that ends a sequence is counted, but it is no part of the text.
        ending = 1 if output.finish_reason == "stop" else 0
        shown = output.new_token_ids[: len(output.new_token_ids) - ending]
        text, taken, stop = sequence.read(shown, last=output.finish_reason is not None)
        tokens = taken if stop is not None else len(output.new_token_ids)
        sequence.tokens += tokens
        self.usage.completion_tokens += tokens
        finish = "stop" if stop is not None else output.finish_reason
        if finish is not None:
            self._finish(sequence, finish, still_running=output.finish_reason is None)
        logprobs = output.logprobs[:taken]
        if not text and not logprobs and finish is None:
            return None
        return Delta(sequence.index, text, logprobs, finish, output.stop_reason if stop is None else stop)

    def _finish(self, sequence: _Sequence, reason: str, *, still_running: bool) -> None:
        name = sequence.request.request_id
        del self._open[name]
        if still_running:
            self.client.abort((name,))
        self._close(sequence, reason)

    def _time(self, sequence: _Sequence, output: RequestOutput) -> None:
        now = time.monotonic()
        count = len(output.new_token_ids)
        if count and not sequence.first_token:
            sequence.first_token = now
            waited = now - self.job.arrival
            self.first_token_seconds = self.first_token_seconds or waited
            self.metrics.time_to_first_token.observe(waited)
            self.metrics.queue_time.observe(output.queue_seconds)
            self.metrics.prefill_time.observe(output.prefill_seconds)
            if sequence.index % self.job.n == 0:
                self.usage.cached_tokens += output.cached_tokens
        elif count:
            each = (now - sequence.last_token) / count
            for _ in range(count):
                self.metrics.inter_token_latency.observe(each)
        sequence.last_token = now

    def _close(self, sequence: _Sequence, reason: str) -> None:
        now = time.monotonic()
        self.finishes.append(reason)
        self.metrics.finished(reason)
        self.metrics.prompt_length.observe(len(sequence.request.prompt_token_ids))
        self.metrics.generation_length.observe(sequence.tokens)
        if reason in ("stop", "length"):
            self.metrics.e2e_latency.observe(now - self.job.arrival)
            self.metrics.decode_time.observe(now - sequence.first_token)
