"""Beam search, as arithmetic: from each beam's best next tokens to the beams of the next step.

The rules are those of transformers' `generate(num_beams=...)`: a score is the sum of log-probabilities; an
ended hypothesis counts sum / length ** length_penalty; the search ends when as many hypotheses as beams have
ended and none that runs can do better (judged at its present length), or at once with `early_stopping`.
All sums are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from slipway_engine.core.request import Request
from slipway_engine.core.sampler import edit

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """One beam's most likely next tokens, best first, with their log-probabilities."""

    values: Floats
    ids: Integers

    @property
    def finite(self) -> bool:
        """False where the model's logits were none."""
        return bool(np.isfinite(self.values[0]))


@dataclass(frozen=True, slots=True)
class Step:
    """A beam that goes on: the beam it comes from, and its next token."""

    parent: int
    token: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An output that has ended, with its length-normalised score."""

    tokens: tuple[int, ...]
    score: float


def candidates(logits: torch.Tensor, requests: Sequence[Request]) -> list[Candidates]:
    """Return what each row of `logits` [rows, vocabulary] brings to its beam's search."""
    scores = torch.log_softmax(logits, dim=1)
    edit(scores, requests)
    width = [min(_kept(request), scores.shape[1]) for request in requests]
    values, ids = scores.topk(max(width), dim=1)
    rows = zip(width, values.cpu().numpy(), ids.cpu().numpy(), strict=True)
    return [Candidates(value[:count], token[:count]) for count, value, token in rows]


def _kept(request: Request) -> int:
    """Return how many candidates are looked at: enough that `beam_width` go on, whichever of them end."""
    width = request.sampling.beam_width
    assert width is not None
    return max(2, 1 + len(request.stop_ids)) * width


class BeamSearch:
    """The search of one request, whose output may have `longest` tokens."""

    def __init__(self, request: Request) -> None:
        assert request.sampling.beam_width is not None
        self.width = request.sampling.beam_width
        self.ended: list[Hypothesis] = []
        self._kept = _kept(request)
        self._penalty = request.sampling.length_penalty
        self._early = request.sampling.early_stopping
        self._stops = np.array(sorted(request.stop_ids), dtype=np.int64)
        self._longest = request.limit - request.prompt_length
        self._length = 0
        self._scores = np.zeros(1, dtype=np.float32)

    def step(self, found: Sequence[Candidates], outputs: Sequence[Sequence[int]]) -> list[Step]:
        """Take the candidates of each running beam, whose outputs so far are `outputs`.

        Returns the beams of the next step, best first; none where the search is over.
        """
        sums = np.concatenate([one.values + score for one, score in zip(found, self._scores, strict=True)])
        parents = np.repeat(np.arange(len(found)), [len(one.ids) for one in found])
        tokens = np.concatenate([one.ids for one in found])
        best = np.argsort(-sums, kind="stable")[: self._kept]
        sums, parents, tokens = sums[best], parents[best], tokens[best]
        self._length += 1
        stops = np.isin(tokens, self._stops) | (self._length >= self._longest)
        self._end(sums, parents, tokens, stops, outputs)
        goes_on = np.flatnonzero(~stops)[: self.width]
        if not len(goes_on) or self._over(sums[goes_on[0]]):
            return []
        self._scores = sums[goes_on]
        return [Step(int(parents[at]), int(tokens[at])) for at in goes_on]

    def _end(
        self, sums: Floats, parents: Integers, tokens: Integers, stops: npt.NDArray[np.bool_],
        outputs: Sequence[Sequence[int]],
    ) -> None:  # fmt: skip
        """Keep the best hypotheses; only the `width` best candidates may end one."""
        if self._early and len(self.ended) == self.width:
            return
        for at in np.flatnonzero(stops[: self.width]):
            output = (*outputs[parents[at]], int(tokens[at]))
            self.ended.append(Hypothesis(output, float(self._normalised(sums[at]))))
        self.ended.sort(key=lambda hypothesis: -hypothesis.score)
        del self.ended[self.width :]

    def _over(self, best: np.float32) -> bool:
        if len(self.ended) < self.width:
            return False
        return self._early or bool(self._normalised(best) <= np.float32(self.ended[-1].score))

    def _normalised(self, total: np.float32) -> np.float32:
        return np.float32(total / np.float32(self._length**self._penalty))
