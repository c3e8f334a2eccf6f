"""Completions and chats: how each finds its prompts, and how its answer is written."""

from __future__ import annotations

from typing import Any

from slipway_engine.errors import RequestError
from slipway_engine.server.answer import Kind
from slipway_engine.server.formats import ChatFormat, CompletionFormat, Head
from slipway_engine.server.protocol import ChatRequest, CompletionRequest, messages_for_template
from slipway_engine.server.service import Service
from slipway_engine.tokenizer.tokenizer import Tokenizer

_FORMS = "prompt must be a text, a list of texts, a list of token ids, or a list of lists of token ids."


async def completion_prompts(service: Service, request: CompletionRequest) -> list[list[int]]:
    """Return the token ids of each prompt. Raises RequestError."""
    prompts = [
        part if isinstance(part, list) else await service.encode(
            part, add_special_tokens=request.add_special_tokens is not False, param="prompt"
        )
        for part in _parts(request.prompt, service.settings.max_sequences)
    ]  # fmt: skip
    for prompt in prompts:
        service.check_prompt(prompt, "prompt")
    return prompts


def _parts(prompt: Any, most: int) -> list[str | list[int]]:
    """Return the prompts, each a text or a list of ids."""
    if isinstance(prompt, str) or _are_ids(prompt):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise RequestError(_FORMS, param="prompt")
    if len(prompt) > most:
        raise RequestError(f"prompt has {len(prompt)} prompts; one request may have {most}.", param="prompt")
    if all(isinstance(part, str) for part in prompt) or all(_are_ids(part) for part in prompt):
        return prompt
    raise RequestError(_FORMS, param="prompt")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


async def chat_prompts(service: Service, request: ChatRequest) -> list[list[int]]:
    """Return the token ids of the conversation, put through the model's template. Raises RequestError."""
    return [
        await chat_prompt(
            service,
            messages_for_template(request.messages),
            request.chat_template_kwargs,
            add_special_tokens=bool(request.add_special_tokens),
        )
    ]


async def chat_prompt(
    service: Service,
    messages: list[dict[str, Any]],
    variables: dict[str, Any] | None = None,
    *,
    add_special_tokens: bool = False,
) -> list[int]:
    """Return the token ids of a conversation. The template writes its special tokens itself."""
    text = await service.render(messages, variables)
    prompt = await service.encode(text, add_special_tokens=add_special_tokens, param="messages")
    service.check_prompt(prompt, "messages")
    return prompt


def _completion_format(head: Head, tokenizer: Tokenizer, request: CompletionRequest) -> CompletionFormat:
    return CompletionFormat(
        head, tokenizer, logprobs=request.wanted_logprobs() is not None, with_usage=request.usage_in_stream()
    )


def _chat_format(head: Head, tokenizer: Tokenizer, request: ChatRequest) -> ChatFormat:
    return ChatFormat(
        head, tokenizer, logprobs=request.wanted_logprobs() is not None, with_usage=request.usage_in_stream()
    )


COMPLETION = Kind("cmpl", CompletionRequest, completion_prompts, _completion_format)
CHAT = Kind("chatcmpl", ChatRequest, chat_prompts, _chat_format)
