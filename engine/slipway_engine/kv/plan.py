"""The memory plan, as arithmetic: what the weights, a step's workspace and the KV blocks need of the limit.

Pure: sizes go in, a plan or `DoesNotFit` comes out. Everything that the engine will hold at its busiest is
counted before anything is loaded, so that running out of memory is not left to chance.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway_engine.errors import DoesNotFit

MIB = 1 << 20
OTHER_PROCESS = 256 * MIB
"""What the HTTP process beside the core may take of the same limit."""

SAMPLER_COPIES = 6
"""float32 copies of the logits that a step may hold: the model's, those that forks draw from, scaled, noise,
its bits, log-probabilities."""

PROMPT_LOGITS = 32 + 2 * 8
"""Rows of logits for prompts' own log-probabilities in a step, and of the copies made of them."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Sizes in bytes, lengths in tokens. `weights` counts packed copies, `load_peak` what loading adds.

    Where attention makes its scores explicit, it holds `score_pairs` of them at once (or one query's, where
    those are more) and `score_bytes_per_pair` for each.
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user set; None leaves it to the plan."""

    max_model_len: int | None
    max_num_seqs: int
    max_batch_tokens: int
    block_size: int
    kv_cache_bytes: int | None
    memory_percent: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What was decided, and the parts that it is made of, in bytes."""

    max_model_len: int
    num_blocks: int
    limit: int
    usable: int
    baseline: int
    weights: int
    workspace: int
    kv_cache: int

    def sentence(self) -> str:
        """Return the plan on one line."""
        return (
            f"memory: {_mib(self.usable)} of {_mib(self.limit)} usable = {_mib(self.baseline)} process + "
            f"{_mib(self.weights)} weights + {_mib(self.workspace)} workspace + "
            f"{_mib(self.kv_cache)} KV cache ({self.num_blocks} blocks)"
        )


def plan(needs: Needs, asked: Asked, limit: int, available: int) -> MemoryPlan:
    """Divide the memory; raises `DoesNotFit` with the sum and the way out."""
    usable = min(limit * asked.memory_percent // 100, needs.baseline + available)
    length = asked.max_model_len or _longest(needs, asked, usable)
    blocks = _blocks(needs, asked, usable, length)
    if not _enough(asked, blocks, length):
        raise DoesNotFit(_refusal(needs, asked, limit, usable, length))
    return MemoryPlan(
        max_model_len=length,
        num_blocks=blocks,
        limit=limit,
        usable=usable,
        baseline=needs.baseline + OTHER_PROCESS,
        weights=needs.weights,
        workspace=_workspace(needs, asked, length),
        kv_cache=(blocks + 1) * _block_bytes(needs, asked),
    )


def _longest(needs: Needs, asked: Asked, usable: int) -> int:
    """Return the greatest length up to the model's own for which there is memory, at least one block."""
    low, high = min(asked.block_size, needs.max_position), needs.max_position
    while low < high:
        middle = (low + high + 1) // 2
        if _enough(asked, _blocks(needs, asked, usable, middle), middle):
            low = middle
        else:
            high = middle - 1
    return low


def _enough(asked: Asked, blocks: int, length: int) -> bool:
    """One request of full length must fit, unless the cache's size was asked for."""
    return blocks > 0 and (asked.kv_cache_bytes is not None or blocks * asked.block_size >= length)


def _block_bytes(needs: Needs, asked: Asked) -> int:
    return needs.kv_bytes_per_token * asked.block_size


def _blocks(needs: Needs, asked: Asked, usable: int, length: int) -> int:
    """Return how many blocks fit, the padding block not counted."""
    left = usable - needs.baseline - OTHER_PROCESS - needs.weights - _workspace(needs, asked, length)
    room = left if asked.kv_cache_bytes is None else min(left, asked.kv_cache_bytes)
    return max(0, room // _block_bytes(needs, asked) - 1)


def _workspace(needs: Needs, asked: Asked, length: int) -> int:
    """Return the most that loading or one step allocates beside weights and cache."""
    activations = asked.max_batch_tokens * needs.activation_bytes_per_token
    logits = (SAMPLER_COPIES * asked.max_num_seqs + PROMPT_LOGITS) * needs.vocab_size * 4
    gathered = 2 * max(needs.gather_tokens, length) * needs.kv_bytes_per_token_layer
    masks = 2 * asked.max_batch_tokens * length * needs.mask_itemsize
    scores = max(needs.score_pairs, needs.gather_tokens, length) * needs.score_bytes_per_pair
    step = activations + logits + gathered + masks + scores + length * needs.rotary_bytes_per_token
    return max(step, needs.load_peak)


def _refusal(needs: Needs, asked: Asked, limit: int, usable: int, length: int) -> str:
    cache = (-(-length // asked.block_size) + 1) * _block_bytes(needs, asked)
    parts = {
        "process": needs.baseline + OTHER_PROCESS,
        "weights": needs.weights,
        "workspace": _workspace(needs, asked, length),
        f"KV cache for one request of {length} tokens": cache,
    }
    total = sum(parts.values())
    sums = " + ".join(f"{_mib(size)} {name}" for name, size in parts.items())
    if parts["process"] + parts["weights"] >= usable:
        way = "raise the memory limit or serve a smaller model"
    else:
        way = "lower --max-model-len, --max-num-seqs or --max-num-batched-tokens, or raise the memory limit"
    return (
        f"The model does not fit: {sums} = {_mib(total)}, but {_mib(usable)} of the limit of {_mib(limit)} "
        f"are usable; {way} to at least {_mib(-(-total * 100 // asked.memory_percent))}."
    )


def _mib(size: int) -> str:
    return f"{-(-size // MIB)} MiB"
