"""Whole experts on different ranks: each token travels to those that it chose, and their answers back.

The ranks of a stage hold the same hidden states after attention, so each routes a run of the tokens of its
own (Lepikhin et al. 2020, GShard, for the exchange of rows all to all).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from slipway_engine.models.feedforward import Experts
from slipway_engine.parallel.shard import Part, cut
from slipway_engine.parallel.traffic import Links


class Load:
    """How many tokens each expert of one rank has answered, in one layer."""

    def __init__(self, experts: Part) -> None:
        self.experts = experts
        self.tokens = [0] * experts.size

    def add(self, counts: Sequence[int]) -> None:
        """Count a step."""
        self.tokens = [before + now for before, now in zip(self.tokens, counts, strict=True)]


@dataclass(frozen=True, slots=True)
class Dispatched(Experts):
    """The experts of one rank, which answer tokens of all."""

    links: Links
    load: Load

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of the chosen experts' answers, each times its share."""
        ranks, per_token = self.links.shard.degrees.tensor, self.config.per_token
        mine = cut(len(rows), ranks, self.links.shard.place)
        own = rows[mine.start : mine.stop]
        shares, chosen = self.route(own)
        order = chosen.flatten().argsort(stable=True)
        tokens = order // per_token
        wanted = chosen.flatten().bincount(minlength=self.config.count)
        answers = self._ask(own.index_select(0, tokens), wanted)
        answers.mul_(shares.flatten()[order].unsqueeze(1))
        out = torch.zeros_like(own).index_add_(0, tokens, answers)
        return self.links.gather_rows(out, len(rows))

    def _ask(self, rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the answers to `rows`, which lie in the order of their experts, `wanted` rows each."""
        ranks, here = self.links.shard.degrees.tensor, len(self.experts)
        counts = self.links.exchange(wanted, [here] * ranks, [here] * ranks).view(ranks, here)
        sent, received = wanted.view(ranks, here).sum(dim=1).tolist(), counts.sum(dim=1).tolist()
        arrived = self.links.exchange(rows, sent, received)
        self.load.add(counts.sum(dim=0).tolist())
        numbers = torch.arange(here, device=rows.device).repeat(ranks)
        expert = numbers.repeat_interleave(counts.flatten())
        for number in range(here):
            where = (expert == number).nonzero().squeeze(1)
            if len(where):
                arrived[where] = self.experts[number](arrived[where])
        return self.links.exchange(arrived, received, sent)
