"""From a request's fields to a job for the core: lengths, sampling, stop strings, limits."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from slipway_engine.errors import RequestError
from slipway_engine.sampling import SamplingParams
from slipway_engine.server.job import Job, Prompt
from slipway_engine.server.protocol import ChatRequest, CompletionRequest
from slipway_engine.server.service import Service
from slipway_engine.tokenizer.detokenize import StopAutomaton, TextStream


def new_job(
    service: Service,
    kind: str,
    request: CompletionRequest | ChatRequest,
    prompts: Sequence[Prompt],
    arrival: float,
    *,
    deadline: float | None = None,
    shown: Sequence[str] = (),
) -> Job:
    """Return what the core has to do for a request. `shown`: special tokens to keep in the text.

    Raises RequestError.
    """
    model = service.model
    tokens = _max_tokens(model.ready.max_model_len, request, max(len(prompt.token_ids) for prompt in prompts))
    sampling = request.sampling(tokens, model.ready.vocab_size, model.defaults)
    _check_count(len(prompts), sampling, service.settings.max_sequences)
    stops = request.stops()
    automaton = StopAutomaton(stops) if stops else None

    def new_text(prompt: Prompt) -> TextStream:
        return TextStream(
            model.tokenizer.detokenizer(
                skip_special_tokens=request.skip_special_tokens is not False,
                shown=shown,
                after=prompt.token_ids,
            ),
            automaton,
            keep_stop=bool(request.include_stop_str_in_output),
            ignore_stops_for=sampling.min_tokens,
        )

    return Job(
        f"{kind}-{uuid.uuid4().hex}",
        prompts,
        sampling,
        new_text,
        arrival,
        request.priority or 0,
        request.cache_salt or "",
        request.wanted_prompt_logprobs(),
        deadline,
    )


def _max_tokens(limit: int, request: CompletionRequest | ChatRequest, prompt: int) -> int:
    wanted, param = request.max_tokens, "max_tokens"
    if isinstance(request, ChatRequest):
        if request.max_completion_tokens is not None:
            wanted, param = request.max_completion_tokens, "max_completion_tokens"
        wanted = wanted if wanted is not None else limit - prompt
    wanted = wanted if wanted is not None else min(16, limit - prompt)
    if prompt + wanted > limit:
        raise RequestError(
            f"The prompt's {prompt} tokens and {param} {wanted} exceed the model's limit of {limit}; "
            f"shorten the prompt or lower {param} to {limit - prompt}.",
            param=param,
            code="context_length_exceeded",
        )
    return wanted


def _check_count(prompts: int, sampling: SamplingParams, limit: int) -> None:
    sequences = prompts * sampling.sequences
    if sequences > limit:
        raise RequestError(
            f"n x prompts is {sequences} sequences (best_of and beams count); at most {limit} may be.",
            param="n",
        )
    if sampling.max_tokens == 0 and sampling.sequences > 1:
        raise RequestError("max_tokens is 0, so there is one answer at most; leave n out.", param="n")
