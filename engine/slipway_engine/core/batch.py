"""One step's answers: which row of the logits belongs to whom, and what each brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from slipway_engine.core import beam, prompt_logprobs
from slipway_engine.core.backend import Backend
from slipway_engine.core.beams import Beams
from slipway_engine.core.group import Group
from slipway_engine.core.messages import RequestOutput, TokenLogprob
from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduled


@dataclass(slots=True)
class Rows:
    """Rows of the logits, and the sequence that each is for."""

    places: list[int] = field(default_factory=list)
    sequences: list[Request] = field(default_factory=list)

    def add(self, place: int, *sequences: Request) -> None:
        """Give one row to one sequence, or to several that draw from it."""
        self.places += [place] * len(sequences)
        self.sequences += sequences

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the rows; the logits themselves where that is all of them, in their order."""
        if len(self.places) == len(logits) and self.places == list(range(len(logits))):
            return logits
        return logits[torch.tensor(self.places, device=logits.device)]


@dataclass(slots=True)
class Batch:
    """What a step's rows are for: the prompt's own tokens, the next token, a search."""

    sampled: Rows = field(default_factory=Rows)
    searched: Rows = field(default_factory=Rows)
    outputs: list[RequestOutput] = field(default_factory=list)


def sort(wanting: Sequence[Scheduled], logits: torch.Tensor, groups: Mapping[str, Group]) -> Batch:
    """Score prompts and say whose the other rows are, before the step is recorded as computed."""
    batch, end = Batch(), 0
    for row in wanting:
        request, start, end = row.request, end, end + row.rows
        if request.pool is not None:
            request.pool.add(logits[start:end])
            request.scored += row.rows
        elif request.scored < request.score_until:
            entries = _score(row, logits[start:end], groups[request.id].asked.prompt_logprobs or 0)
            batch.outputs.append(RequestOutput(request.id, prompt_logprobs=entries))
        if row.samples:
            rows = batch.searched if request.sampling.beam_width is not None else batch.sampled
            rows.add(end - 1, request)
    return batch


def spread(batch: Batch, groups: Mapping[str, Group]) -> None:
    """Let the sequences that waited for a prompt draw from its last row too."""
    if not any(groups[sequence.id].unborn for sequence in batch.sampled.sequences):
        return
    rows = Rows()
    for place, sequence in zip(batch.sampled.places, batch.sampled.sequences, strict=True):
        rows.add(place, sequence, *groups[sequence.id].spawn(sequence))
    batch.sampled = rows


def answer(
    batch: Batch, logits: torch.Tensor, groups: Mapping[str, Group], backend: Backend, now: float
) -> list[RequestOutput]:
    """Choose the next tokens and return what is to be sent. The logits are overwritten."""
    outputs = batch.outputs
    if batch.searched.places:
        found = beam.candidates(batch.searched.of(logits), batch.searched.sequences)
        for sequence, some in zip(batch.searched.sequences, found, strict=True):
            group = groups[sequence.id]
            assert isinstance(group, Beams)
            if not group.over:
                outputs += group.take(sequence, some, now) if some.finite else [_broken(group)]
    if batch.sampled.places:
        sampled = backend.sample(batch.sampled.of(logits), batch.sampled.sequences)
        for sequence, one in zip(batch.sampled.sequences, sampled, strict=True):
            group = groups[sequence.id]
            if not group.over:
                fine = one.token_id is not None
                outputs += group.accept(sequence, one, now) if fine else [_broken(group)]
    return outputs


def _score(row: Scheduled, logits: torch.Tensor, alternatives: int) -> tuple[TokenLogprob, ...]:
    request = row.request
    first = request.computed + row.count - row.rows
    last = min(first + row.rows, request.score_until)
    request.scored = last
    return prompt_logprobs.score(logits, request.tokens[first + 1 : last + 1], alternatives)


def _broken(group: Group) -> RequestOutput:
    group.release()
    return RequestOutput(
        group.asked.request_id,
        finish_reason="error",
        error="The model computed no finite logits; try dtype float32, or check the model's files.",
    )
