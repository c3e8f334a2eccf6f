"""What is refused before it costs anything: settings that cannot work, and requests that never could run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container

from slipway_engine.config import EngineConfig
from slipway_engine.core.messages import NewRequest, Ready
from slipway_engine.errors import InvalidArgument, RequestError


def check_config(config: EngineConfig) -> None:
    """Refuse settings outside their range, naming the setting and the range."""
    for name in ("max_num_seqs", "max_batch_tokens", "block_size", "max_waiting"):
        if getattr(config, name) < 1:
            raise InvalidArgument(f"{name} is {getattr(config, name)}; it must be at least 1.")
    for name in ("max_model_len", "kv_cache_bytes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InvalidArgument(f"{name} is {value}; it must be at least 1, or absent.")
    if not 1 <= config.memory_percent <= 100:
        raise InvalidArgument(f"memory_percent is {config.memory_percent}; it must be from 1 to 100.")
    if config.max_batch_tokens < config.max_num_seqs:
        raise InvalidArgument(
            f"max_batch_tokens is {config.max_batch_tokens}, less than max_num_seqs, {config.max_num_seqs}, "
            "so running requests could not all advance; raise the one or lower the other."
        )


def check_request(request: NewRequest, known: Container[str], ready: Ready) -> None:
    """Refuse what could never be answered, naming the field and the limit."""
    if request.request_id in known:
        raise RequestError(
            f"the request id {request.request_id!r} is in use; choose another.",
            param="request_id",
            code="duplicate_request_id",
        )
    if request.pooling is not None and ready.pooling is None:
        raise RequestError("This model makes no embeddings; ask it for tokens.", param="pooling")
    if request.pooling is None and ready.pooling is not None:
        raise RequestError(
            "This model makes embeddings only; send the text to /v1/embeddings.", param="pooling"
        )
    _check_prompt(request, ready)
    _check_ids("stop_token_ids", request.sampling.stop_token_ids, ready.vocab_size)
    _check_ids("logit_bias", tuple(request.sampling.logit_bias), ready.vocab_size)


def length_limit(request: NewRequest, ready: Ready) -> int:
    """Return the length at which the sequence ends: its own limit, or the model's where that is less."""
    longest = request.sampling.max_tokens if request.generates else 0
    return min(len(request.prompt_token_ids) + longest, ready.max_model_len)


def _check_prompt(request: NewRequest, ready: Ready) -> None:
    length = len(request.prompt_token_ids)
    longest = ready.max_model_len - (1 if request.generates else 0)
    if length == 0:
        raise RequestError("the prompt is empty; send at least one token.", param="prompt")
    if length > longest:
        raise RequestError(
            f"the prompt has {length} tokens, but max_model_len is {ready.max_model_len} for prompt and "
            f"output together; send at most {longest}.",
            param="prompt",
            code="context_length_exceeded",
        )
    _check_ids("prompt", request.prompt_token_ids, ready.vocab_size)


def _check_ids(param: str, ids: tuple[int, ...], vocab_size: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise RequestError(
            f"{param} has the token id {wrong}; ids of this model are from 0 to {vocab_size - 1}.",
            param=param,
            code="invalid_token_id",
        )


def check_cache(limit: int, blocks_for: Callable[[int], int], ready: Ready) -> None:
    """Refuse a sequence of `limit` tokens where its length has more blocks than there are in the cache.

    A sequence's last token is never computed, so it needs no place in the cache.
    """
    if blocks_for(limit - 1) > ready.num_kv_blocks:
        capacity = bisect_right(range(limit), ready.num_kv_blocks, key=blocks_for) - 1
        raise RequestError(
            f"prompt and max_tokens need {limit - 1} tokens of KV cache, which holds {capacity}; "
            "send a shorter prompt or lower max_tokens.",
            param="max_tokens",
            code="kv_cache_exceeded",
        )
