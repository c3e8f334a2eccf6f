"""How far one model's predictions lie from another's, as sums over the tokens of a text.

Pure: rows of logits go in. Perplexity is exp of the mean negative log-likelihood of the text's own tokens;
KL is the mean over positions of sum p (ln p - ln q), in nats, p being the reference; top-1 agreement is the
share of positions at which both hold the same token for the most likely. Teacher-forced: each position sees
the text's own tokens before it, whatever a model would have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, inf, sqrt

import torch

_ROWS = 128
"""Rows at a time, so that a vocabulary's worth of each stays in the processor's reach."""

_STEEP = 60.0
"""A difference of logits whose exponential float32 might not hold."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The figures of a text: KL in nats, `kl_error` the standard error of its mean; agreement from 0 to 1."""

    tokens: int
    perplexity: float
    reference_perplexity: float
    kl: float
    kl_error: float
    kl_p99: float
    kl_max: float
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A reference's rows: logits and probabilities [positions, vocabulary], and ln of the sum of e^logits."""

    logits: torch.Tensor
    probabilities: torch.Tensor
    normaliser: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> Yardstick:
        """Prepare float32 logits. Raises ValueError where a row is not finite."""
        if not logits.isfinite().all():
            raise ValueError("a row is not finite")
        top = logits.max(-1, keepdim=True).values
        exponentials = (logits - top).exp_()
        total = exponentials.sum(-1, keepdim=True, dtype=torch.float64)
        normaliser = (top.double() + total.log())[:, 0]
        return cls(logits, exponentials.div_(total.float()), normaliser)

    def rows(self, rows: slice) -> Yardstick:
        """Return some of the rows."""
        return Yardstick(self.logits[rows], self.probabilities[rows], self.normaliser[rows])


@dataclass(slots=True)
class Comparison:
    """Collects rows of logits, in any portions."""

    _loss: float = 0.0
    _reference_loss: float = 0.0
    _agreed: int = 0
    _divergences: list[float] = field(default_factory=list)

    def add(self, logits: torch.Tensor, reference: Yardstick, targets: Sequence[int]) -> None:
        """Add positions: `logits` are float32 [positions, vocabulary], `targets` the tokens that came next.

        Raises ValueError where a row holds anything that is not finite.
        """
        for start in range(0, len(targets), _ROWS):
            rows = slice(start, start + _ROWS)
            self._add(logits[rows], reference.rows(rows), torch.tensor(targets[rows]))

    def result(self) -> Quality:
        """Return the figures so far. Raises ValueError where there is nothing to take a mean of."""
        count = len(self._divergences)
        if not count:
            raise ValueError("no position was compared")
        ordered = sorted(self._divergences)
        mean = sum(ordered) / count
        spread = sum((value - mean) ** 2 for value in ordered) / max(1, count - 1)
        return Quality(
            tokens=count,
            perplexity=_exp(self._loss / count),
            reference_perplexity=_exp(self._reference_loss / count),
            kl=mean,
            kl_error=sqrt(spread / count),
            kl_p99=ordered[min(count - 1, int(0.99 * count))],
            kl_max=ordered[-1],
            top1_agreement=self._agreed / count,
        )

    def _add(self, logits: torch.Tensor, reference: Yardstick, targets: torch.Tensor) -> None:
        """Add rows, precisely also where the two hardly differ.

        With d = q - p in logits and c its mean under p, KL is ln of the mean of e^(d - c), or of one and the
        mean of e^x - 1 - x, which is never negative and loses nothing to cancellation; ln sum e^q is then
        ln sum e^p + c + KL.
        """
        if not logits.isfinite().all():
            raise ValueError("a row is not finite")
        probabilities, apart = reference.probabilities, logits - reference.logits
        mean = (probabilities * apart).sum(-1, keepdim=True)
        apart -= mean
        if apart.max() > _STEEP:
            apart = apart.double()
        divergences = (probabilities * (apart.expm1() - apart)).sum(-1).double().log1p()
        columns = targets[:, None]
        losses = reference.normaliser + mean[:, 0].double() + divergences
        self._loss += float((losses - logits.gather(1, columns)[:, 0].double()).sum())
        own = reference.normaliser - reference.logits.gather(1, columns)[:, 0].double()
        self._reference_loss += float(own.sum())
        self._agreed += int((logits.argmax(-1) == reference.logits.argmax(-1)).sum())
        self._divergences += divergences.tolist()


def windows(tokens: Sequence[int], length: int, prefix: Sequence[int] = ()) -> Iterator[list[int]]:
    """Cut a text into windows of at most `length` tokens, each after `prefix`; all but the first token count.

    A last window of a single token would count nothing, and is left out.
    """
    own = length - len(prefix)
    for start in range(0, len(tokens), own):
        window = [*prefix, *tokens[start : start + own]]
        if len(window) > 1:
            yield window


def _exp(value: float) -> float:
    return exp(value) if value < 700 else inf
