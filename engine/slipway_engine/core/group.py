"""The sequences of one request, what each step brings them, and what is sent of it when.

A prompt is computed once: the first sequence leads, and when its prompt is done the others fork from its
blocks. From there each is a sequence like any other; it may be preempted, and computed again, alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from slipway_engine.core.messages import FinishReason, NewRequest, RequestOutput, TokenLogprob
from slipway_engine.core.request import Request
from slipway_engine.core.sampler import Sampled
from slipway_engine.core.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Births:
    """What a new sequence gets of its own: a random stream by its index, and a place in the queue."""

    stream: Callable[[int], int]
    order: Iterator[int]

    def twin(self, parent: Request, index: int) -> Request:
        """Return a sequence with the parent's tokens."""
        priority, arrival, _ = parent.key
        return parent.twin(index, (priority, arrival, next(self.order)), self.stream(index))


class Group:
    """`n` sequences that are sent as they grow."""

    def __init__(self, asked: NewRequest, leader: Request, scheduler: Scheduler, births: Births) -> None:
        self.asked = asked
        self.leader = leader
        self.live = [leader]
        self.scheduler = scheduler
        self.births = births
        self.unborn = list(range(1, asked.sampling.sequences))

    @property
    def over(self) -> bool:
        """True where nothing is left to compute."""
        return not self.live

    def release(self) -> None:
        """Give back everything that the group holds."""
        for sequence in self.live:
            self.scheduler.remove(sequence)
        self.live.clear()
        self.unborn.clear()

    def stop(self, index: int) -> None:
        """Let one choice end where it is; unknown ones are ignored."""
        if index in self.unborn:
            self.unborn.remove(index)
            return
        sequence = next((one for one in self.live if one.index == index), None)
        if sequence is not None and self.unborn:  # it leads, and others need its prompt
            sequence.index = self.unborn.pop(0)
            sequence.stream = self.births.stream(sequence.index)
        elif sequence is not None:
            self._end(sequence)

    def spawn(self, parent: Request) -> list[Request]:
        """Fork the sequences that wait for the prompt; return those that may sample from the parent's row."""
        born = [self.births.twin(parent, index) for index in self.unborn]
        self.unborn.clear()
        self.live += born
        return [child for child in born if self.scheduler.fork(parent, child)]

    def accept(self, sequence: Request, sampled: Sampled, now: float) -> list[RequestOutput]:
        """Append a sampled token; return what is to be sent."""
        assert sampled.token_id is not None
        sequence.append(sampled.token_id)
        if sequence.first_token is None:
            sequence.first_token = now
        reason, stop = ending(sequence)
        if reason is not None:
            self._end(sequence)
        return self._outputs(sequence, sampled, reason, stop)

    def conclude(self) -> RequestOutput:
        """End a request that asked about its prompt alone."""
        self.release()
        pool = self.leader.pool
        return RequestOutput(
            self.asked.request_id,
            finish_reason="length" if pool is None else "stop",
            embedding=None if pool is None else tuple(pool.vector().tolist()),
            **self.timed(None),  # type: ignore[arg-type]
        )

    def timed(self, first_token: float | None) -> dict[str, float]:
        """Return the figures that come with the first token of choice 0."""
        leader = self.leader
        started = leader.started or leader.arrival
        return {
            "cached_tokens": leader.cached_tokens,
            "queue_seconds": max(0.0, started - leader.arrival),
            "prefill_seconds": (first_token or started) - started,
        }

    def _outputs(
        self, sequence: Request, sampled: Sampled, reason: FinishReason | None, stop: int | None
    ) -> list[RequestOutput]:
        token, logprob = sequence.tokens[-1], sampled.logprob
        first = sequence.index == 0 and sequence.output_length == 1
        figures = self.timed(sequence.first_token) if first else {}
        return [
            RequestOutput(
                sequence.id,
                (token,),
                (logprob,) if logprob is not None else (),
                finish_reason=reason,
                stop_reason=stop,
                index=sequence.index,
                **figures,  # type: ignore[arg-type]
            )
        ]

    def _end(self, sequence: Request) -> None:
        self.live.remove(sequence)
        self.scheduler.remove(sequence)


@dataclass(slots=True)
class _Draft:
    """A sequence that is held back until all have ended."""

    sequence: Request
    logprobs: list[TokenLogprob] = field(default_factory=list)
    score: float = 0.0
    reason: FinishReason | None = None
    stop: int | None = None


class Ranked(Group):
    """`best_of` sequences, of which the `n` most likely are sent when all have ended."""

    def __init__(self, asked: NewRequest, leader: Request, scheduler: Scheduler, births: Births) -> None:
        super().__init__(asked, leader, scheduler, births)
        self._drafts: dict[int, _Draft] = {}

    def stop(self, index: int) -> None:
        """Nothing was sent yet, so no single choice can be known to be enough."""

    def _outputs(
        self, sequence: Request, sampled: Sampled, reason: FinishReason | None, stop: int | None
    ) -> list[RequestOutput]:
        assert sampled.logprob is not None
        draft = self._drafts.setdefault(sequence.index, _Draft(sequence))
        draft.score += sampled.logprob.logprob
        draft.reason, draft.stop = reason, stop
        if self.asked.sampling.logprobs is not None:
            draft.logprobs.append(sampled.logprob)
        return self._best() if self.over else []

    def _best(self) -> list[RequestOutput]:
        ranked = sorted(self._drafts.values(), key=lambda draft: (-draft.score, draft.sequence.index))
        figures = self.timed(self.leader.first_token)
        return [
            RequestOutput(
                self.asked.request_id,
                tuple(draft.sequence.tokens[draft.sequence.prompt_length :]),
                tuple(draft.logprobs),
                finish_reason=draft.reason,
                stop_reason=draft.stop,
                index=index,
                **(figures if index == 0 else {}),  # type: ignore[arg-type]
            )
            for index, draft in enumerate(ranked[: self.asked.sampling.n])
        ]


def ending(sequence: Request) -> tuple[FinishReason | None, int | None]:
    """Say whether the last token ends the sequence, and the stop id of the request's own that did."""
    token = sequence.tokens[-1]
    if token in sequence.stop_ids:
        return "stop", token if token in sequence.sampling.stop_token_ids else None
    return ("length" if len(sequence.tokens) >= sequence.limit else None), None
