"""A request as the core sees it: tokens so far, how many of them the cache holds, and the blocks that do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from slipway_engine.kv.hashing import extend
from slipway_engine.sampling import SamplingParams

QueueKey: TypeAlias = tuple[int, float, int]
"""(priority, arrival, order of addition): smaller goes first."""


@dataclass(slots=True, eq=False)
class Request:
    """`tokens` is prompt and output; `computed` of them have keys and values in `blocks`.

    `limit` is the length at which the sequence ends. `chain` holds the digests of the full blocks so far,
    after the root's.
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
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    started: float | None = None
    first_token: float | None = None
    preemptions: int = 0

    @property
    def arrival(self) -> float:
        """When the HTTP side took the request, in monotonic seconds."""
        return self.key[1]

    @property
    def output_length(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def debt(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.computed

    def digests(self, block_size: int) -> list[bytes]:
        """Return the digests of all full blocks of the tokens so far."""
        while len(self.chain) <= len(self.tokens) // block_size:
            at = (len(self.chain) - 1) * block_size
            self.chain.append(extend(self.chain[-1], self.tokens[at : at + block_size]))
        return self.chain[1:]
