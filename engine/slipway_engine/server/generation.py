"""One HTTP request's choices: submitted together, read as text, stopped, freed for certain."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from slipway_engine.core.messages import NewRequest, RequestOutput, TokenLogprob
from slipway_engine.errors import RequestError
from slipway_engine.process.client import CoreClient, CoreFailed
from slipway_engine.server.job import Delta, Job, Usage
from slipway_engine.server.mailbox import Mailbox
from slipway_engine.server.metrics import Metrics
from slipway_engine.tokenizer.detokenize import TextStream


@dataclass(slots=True)
class _Sequence:
    """One choice while it runs."""

    index: int
    request: NewRequest
    text: TextStream
    tokens: int = 0
    begun: bool = False
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
    _queue_seconds: float = 0.0
    _prefill_seconds: float = 0.0
    _open: dict[tuple[str, int], _Sequence] = field(default_factory=dict)
    _scores: dict[str, list[TokenLogprob]] = field(default_factory=dict)

    async def deltas(self) -> AsyncGenerator[Delta]:
        """Yield what is new, choice by choice as it comes. Raises RequestError.

        However this ends, nothing of the job is left in the core.
        """
        self.usage.prompt_tokens = sum(len(prompt.token_ids) for prompt in self.job.prompts)
        try:
            self._submit()
            while self._open:
                for output in await self.mailbox.take():
                    if (delta := self._read(output)) is not None:
                        yield delta
        finally:
            self._abandon()

    def as_attributes(self) -> dict[str, Any]:
        """Return what a span tells of it, in OpenTelemetry's words and vLLM's."""
        sampling, usage = self.job.sampling, self.usage
        facts: dict[str, Any] = {
            "gen_ai.response.id": self.job.request_id,
            "gen_ai.response.finish_reasons": self.finishes,
            "gen_ai.request.n": sampling.n,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cached_tokens": usage.cached_tokens,
        }
        if self.first_token_seconds is not None:
            facts |= {
                "gen_ai.latency.time_to_first_token": self.first_token_seconds,
                "gen_ai.latency.time_in_queue": self._queue_seconds,
                "gen_ai.latency.time_in_model_prefill": self._prefill_seconds,
            }
        return facts

    def _submit(self) -> None:
        n = self.job.sampling.n
        for at, (request, prompt) in enumerate(zip(self.job.requests(), self.job.prompts, strict=True)):
            self._scores[request.request_id] = []
            self.metrics.params_n.observe(n)
            self.metrics.params_max_tokens.observe(self.job.sampling.max_tokens)
            for choice in range(n):
                self._open[request.request_id, choice] = _Sequence(
                    at * n + choice, request, self.job.new_text(prompt)
                )
            try:
                self.client.submit(request, self.mailbox.put)
            except CoreFailed as error:
                raise RequestError(str(error), code="engine_failed", status=500) from error

    def _abandon(self) -> None:
        if self._open:
            self.client.abort(tuple({request_id for request_id, _ in self._open}))
        for sequence in self._open.values():
            self._close(sequence, "abort")
        self._open.clear()

    def _read(self, output: RequestOutput) -> Delta | None:
        sequence = self._open.get((output.request_id, output.index))
        if output.error is not None:
            self._fail(output, output.error)
        if sequence is None:  # ended at a stop string while this was on its way
            return None
        self._scores[output.request_id] += output.prompt_logprobs
        self._time(sequence, output)
        return self._advance(sequence, output)

    def _fail(self, output: RequestOutput, sentence: str) -> NoReturn:
        for key in [key for key in self._open if key[0] == output.request_id]:
            self._close(self._open.pop(key), "error")
        raise RequestError(
            sentence,
            param=output.error_param,
            code=output.error_code,
            status=output.error_status,
            retry_after=output.retry_after,
        )

    def _advance(self, sequence: _Sequence, output: RequestOutput) -> Delta | None:
        # The token that ends a sequence is counted, but it is no part of the text.
        ending = 1 if output.finish_reason == "stop" and output.new_token_ids else 0
        shown = output.new_token_ids[: len(output.new_token_ids) - ending]
        text, taken, stop = sequence.read(shown, last=output.finish_reason is not None)
        tokens = taken if stop is not None else len(output.new_token_ids)
        sequence.tokens += tokens
        self.usage.completion_tokens += tokens
        finish = "stop" if stop is not None else output.finish_reason
        if finish is not None:
            self._finish(sequence, output.index, finish, still_running=output.finish_reason is None)
        logprobs = output.logprobs[:taken]
        if not text and not logprobs and finish is None:
            return None
        reason = output.stop_reason if stop is None else stop
        return Delta(
            sequence.index, text, logprobs, finish, reason, self._first_scores(sequence), output.embedding
        )

    def _first_scores(self, sequence: _Sequence) -> Sequence[TokenLogprob] | None:
        if sequence.begun or self.job.prompt_logprobs is None:
            return None
        sequence.begun = True
        return self._scores[sequence.request.request_id]

    def _finish(self, sequence: _Sequence, choice: int, reason: str, *, still_running: bool) -> None:
        name = sequence.request.request_id
        del self._open[name, choice]
        if still_running:
            self.client.stop_choice(name, choice)
        self._close(sequence, reason)

    def _time(self, sequence: _Sequence, output: RequestOutput) -> None:
        now = time.monotonic()
        count = len(output.new_token_ids)
        if count and not sequence.first_token:
            sequence.first_token = now
            self._time_first(output, now - self.job.arrival)
        elif count:
            each = (now - sequence.last_token) / count
            for _ in range(count):
                self.metrics.inter_token_latency.observe(each)
        sequence.last_token = now

    def _time_first(self, output: RequestOutput, waited: float) -> None:
        self.first_token_seconds = self.first_token_seconds or waited
        self.metrics.time_to_first_token.observe(waited)
        if output.index == 0:
            self.metrics.queue_time.observe(output.queue_seconds)
            self.metrics.prefill_time.observe(output.prefill_seconds)
            self._queue_seconds = output.queue_seconds
            self._prefill_seconds = output.prefill_seconds
            self.usage.cached_tokens += output.cached_tokens

    def _close(self, sequence: _Sequence, reason: str) -> None:
        now = time.monotonic()
        self.finishes.append(reason)
        self.metrics.finished(reason)
        self.metrics.prompt_length.observe(len(sequence.request.prompt_token_ids))
        self.metrics.generation_length.observe(sequence.tokens)
        if reason in ("stop", "length"):
            self.metrics.e2e_latency.observe(now - self.job.arrival)
            if sequence.first_token:
                decode = now - sequence.first_token
                self.metrics.decode_time.observe(decode)
                self.metrics.inference_time.observe(self._prefill_seconds + decode)
                if sequence.tokens > 1:
                    self.metrics.time_per_output_token.observe(decode / (sequence.tokens - 1))
