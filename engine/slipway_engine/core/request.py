"""A sequence as the core sees it: tokens so far, how many of them the cache holds, and the blocks that do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from slipway_engine.core.penalties import Counts
from slipway_engine.kv.hashing import extend
from slipway_engine.models.pooling import Pool
from slipway_engine.sampling import SamplingParams

QueueKey: TypeAlias = tuple[int, float, int]
"""(priority, arrival, order of addition): smaller goes first."""


@dataclass(slots=True, eq=False)
class Request:
    """`tokens` is prompt and output; `computed` of them have keys and values in the blocks of `tables`.

    `id` is the client's request, `index` the sequence's place among those that the request asked for. `limit`
    is the length at which the sequence ends. `chain` holds the digests of the full blocks so far, after the
    root's. The prompt's positions [scored, score_until) owe their logits, or, to `pool`, their hidden states.
    There is a table for each group of layers, and none where the request holds nothing; the first `slid`
    blocks of each have left the group's window and are given back, and their places hold the padding block.
    """

    id: str
    tokens: list[int]
    prompt_length: int
    limit: int
    sampling: SamplingParams
    stop_ids: frozenset[int]
    key: QueueKey
    chain: list[bytes]
    stream: int
    index: int = 0
    computed: int = 0
    tables: list[list[int]] = field(default_factory=list)
    slid: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    started: float | None = None
    first_token: float | None = None
    preemptions: int = 0
    scored: int = 0
    score_until: int = 0
    pool: Pool | None = None
    counts: Counts | None = None
    plain: bool = field(init=False)
    """True where logits are used as they come: nothing is forbidden, biased, penalised or reported."""

    def __post_init__(self) -> None:
        """Count the tokens so far, where something depends on it."""
        asked = self.sampling
        if self.counts is None and asked.penalises:
            self.counts = Counts(self.tokens, self.prompt_length)
        reported = asked.logprobs is not None or asked.ranked
        self.plain = not (reported or asked.penalises or asked.min_tokens or asked.logit_bias)

    @property
    def arrival(self) -> float:
        """When the HTTP side took the request, in monotonic seconds."""
        return self.key[1]

    @property
    def output_length(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def generates(self) -> bool:
        """False where only the prompt itself is asked about."""
        return self.limit > self.prompt_length

    @property
    def debt(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.computed

    def append(self, token: int) -> None:
        """Add an output token."""
        self.tokens.append(token)
        if self.counts is not None:
            self.counts.add(token)

    def twin(self, index: int, key: QueueKey, stream: int) -> Request:
        """Return a sequence with the same tokens, which holds no blocks yet."""
        return Request(
            id=self.id,
            tokens=list(self.tokens),
            prompt_length=self.prompt_length,
            limit=self.limit,
            sampling=self.sampling,
            stop_ids=self.stop_ids,
            key=key,
            chain=list(self.chain),
            stream=stream,
            index=index,
            started=self.started,
            first_token=self.first_token,
            scored=self.scored,
            score_until=self.score_until,
            counts=self.counts.copy() if self.counts is not None else None,
        )

    def digests(self, block_size: int) -> list[bytes]:
        """Return the digests of all full blocks of the tokens so far."""
        while len(self.chain) <= len(self.tokens) // block_size:
            at = (len(self.chain) - 1) * block_size
            self.chain.append(extend(self.chain[-1], self.tokens[at : at + block_size]))
        return self.chain[1:]
