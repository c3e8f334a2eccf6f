"""The memory ledger, as arithmetic: what weights, a step's workspace and the KV blocks need of one device.

Pure: sizes go in, a `Ledger` or `NotEnough` comes out. Everything that an engine holds at its busiest is
counted before anything is loaded, so that running out of memory is not left to chance. The engine divides its
measured sizes with it, the operator those that `slipway_api.needs` expects: the same sums in both places.

The most that may run is found the way vLLM's profile run does it (weights first, then the peak of a step, the
rest is cache), by counting in place of measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from slipway_api.kv_groups import Windows, blocks_of

MIB: Final = 1 << 20
OTHER_PROCESS: Final = 256 * MIB
"""What the HTTP process beside the core may take of the same limit, where it shares one (a CPU's)."""

SAMPLER_COPIES: Final = 6
"""float32 copies of the logits that a step may hold: the model's, those that forks draw from, scaled, noise,
its bits, log-probabilities."""

PROMPT_LOGITS: Final = 32 + 2 * 8
"""Rows of logits for prompts' own log-probabilities in a step, and of the copies made of them."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Sizes in bytes, lengths in tokens, of one device's share.

    `weights` counts packed copies, `load_peak` what loading adds. Where attention makes its scores explicit,
    it holds `score_pairs` of them at once (or one query's, where those are more) and `score_bytes_per_pair`
    for each. `other_process` is what a second process of the same limit takes. `kv_bytes_per_token` counts
    all groups of layers, one for each of `kv_windows`; a block holds one group's.
    """

    weights: int
    load_peak: int
    baseline: int
    kv_bytes_per_token: int
    kv_bytes_per_token_layer: int
    activation_bytes_per_token: int
    vocab_size: int
    rotary_bytes_per_token: int
    gather_tokens: int
    max_position: int
    mask_itemsize: int
    score_pairs: int = 0
    score_bytes_per_pair: int = 0
    other_process: int = OTHER_PROCESS
    kv_windows: Windows = (None,)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user set; None leaves it to the ledger."""

    max_model_len: int | None
    max_num_seqs: int
    max_batch_tokens: int
    block_size: int
    kv_cache_bytes: int | None
    memory_percent: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was decided, and the parts that it is made of, in bytes."""

    max_model_len: int
    num_blocks: int
    block_size: int
    limit: int
    usable: int
    baseline: int
    weights: int
    workspace: int
    kv_cache: int
    kv_windows: Windows = (None,)
    max_batch_tokens: int = 1

    @property
    def max_tokens(self) -> int:
        """Return how many tokens the cache holds of requests that are as long as one may be."""
        whole = -(-self.max_model_len // self.block_size)
        return self.num_blocks * self.block_size * whole // self._full_length

    def max_sequences(self, limit: int) -> int:
        """Return how many requests of the full length run at once, at most `limit`."""
        return min(limit, self.num_blocks // self._full_length)

    @property
    def _full_length(self) -> int:
        """The blocks of a request of the full length."""
        return blocks_of(self.kv_windows, self.max_model_len, self.max_batch_tokens, self.block_size)

    def parts(self) -> dict[str, int]:
        """Return the bytes by the names that `status.plan` and the engine's metrics use."""
        return {
            "limit": self.limit,
            "usable": self.usable,
            "process": self.baseline,
            "weights": self.weights,
            "workspace": self.workspace,
            "kvCache": self.kv_cache,
        }

    def sentence(self) -> str:
        """Return the ledger on one line."""
        return (
            f"memory: {mib(self.usable)} of {mib(self.limit)} usable = {mib(self.baseline)} process + "
            f"{mib(self.weights)} weights + {mib(self.workspace)} workspace + "
            f"{mib(self.kv_cache)} KV cache ({self.num_blocks} blocks)"
        )


class NotEnough(Exception):
    """The parts do not fit. `parts` are bytes by name, `total` their sum, `required` the least limit."""

    def __init__(
        self, parts: Mapping[str, int], usable: int, limit: int, memory_percent: int, fixed: int
    ) -> None:
        self.parts, self.usable, self.limit, self.fixed = parts, usable, limit, fixed
        self.total = sum(parts.values())
        self.required = -(-self.total * 100 // memory_percent)
        super().__init__(self.sums())

    @property
    def hopeless(self) -> bool:
        """Return whether process and weights alone are too much, so that no smaller length could help."""
        return self.fixed >= self.usable

    def sums(self) -> str:
        """Return the arithmetic as a clause."""
        terms = " + ".join(f"{mib(size)} {name}" for name, size in self.parts.items())
        return f"{terms} = {mib(self.total)}, but {mib(self.usable)} of {mib(self.limit)} are usable"


def divide(needs: Needs, asked: Asked, limit: int, available: int) -> Ledger:
    """Divide `limit` bytes, of which `available` beyond the baseline can be had. Raises NotEnough."""
    usable = min(limit * asked.memory_percent // 100, needs.baseline + available)
    length = asked.max_model_len or _longest(needs, asked, usable)
    blocks = _blocks(needs, asked, usable, length)
    if not _enough(needs, asked, blocks, length):
        raise _not_enough(needs, asked, limit, usable, length)
    return Ledger(
        max_model_len=length,
        num_blocks=blocks,
        block_size=asked.block_size,
        limit=limit,
        usable=usable,
        baseline=needs.baseline + needs.other_process,
        weights=needs.weights,
        workspace=workspace(needs, asked, length),
        kv_cache=(blocks + 1) * _block_bytes(needs, asked),
        kv_windows=needs.kv_windows,
        max_batch_tokens=asked.max_batch_tokens,
    )


def workspace(needs: Needs, asked: Asked, length: int) -> int:
    """Return the most that loading or one step allocates beside weights and cache."""
    activations = asked.max_batch_tokens * needs.activation_bytes_per_token
    logits = (SAMPLER_COPIES * asked.max_num_seqs + PROMPT_LOGITS) * needs.vocab_size * 4
    gathered = 2 * max(needs.gather_tokens, length) * needs.kv_bytes_per_token_layer
    masks = 2 * asked.max_batch_tokens * length * needs.mask_itemsize
    scores = max(needs.score_pairs, needs.gather_tokens, length) * needs.score_bytes_per_pair
    step = activations + logits + gathered + masks + scores + length * needs.rotary_bytes_per_token
    return max(step, needs.load_peak)


def mib(size: int) -> str:
    """Return a size in MiB, rounded up."""
    return f"{-(-size // MIB)} MiB"


def _longest(needs: Needs, asked: Asked, usable: int) -> int:
    """Return the greatest length up to the model's own for which there is memory, at least one block."""
    low, high = min(asked.block_size, needs.max_position), needs.max_position
    while low < high:
        middle = (low + high + 1) // 2
        if _enough(needs, asked, _blocks(needs, asked, usable, middle), middle):
            low = middle
        else:
            high = middle - 1
    return low


def _enough(needs: Needs, asked: Asked, blocks: int, length: int) -> bool:
    """One request of full length must fit, unless the cache's size was asked for."""
    return blocks > 0 and (asked.kv_cache_bytes is not None or blocks >= _most(needs, asked, length))


def _most(needs: Needs, asked: Asked, length: int) -> int:
    return blocks_of(needs.kv_windows, length, asked.max_batch_tokens, asked.block_size)


def _block_bytes(needs: Needs, asked: Asked) -> int:
    return needs.kv_bytes_per_token // len(needs.kv_windows) * asked.block_size


def _blocks(needs: Needs, asked: Asked, usable: int, length: int) -> int:
    """Return how many blocks fit, the padding block not counted."""
    left = usable - needs.baseline - needs.other_process - needs.weights - workspace(needs, asked, length)
    room = left if asked.kv_cache_bytes is None else min(left, asked.kv_cache_bytes)
    return max(0, room // _block_bytes(needs, asked) - 1)


def _not_enough(needs: Needs, asked: Asked, limit: int, usable: int, length: int) -> NotEnough:
    process = needs.baseline + needs.other_process
    parts = {
        "process": process,
        "weights": needs.weights,
        "workspace": workspace(needs, asked, length),
        f"KV cache for one request of {length} tokens": (_most(needs, asked, length) + 1)
        * _block_bytes(needs, asked),
    }
    return NotEnough(parts, usable, limit, asked.memory_percent, process + needs.weights)
