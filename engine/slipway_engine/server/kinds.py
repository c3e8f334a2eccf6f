"""Completions and chats: how each finds its prompts, and how its answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slipway_engine.errors import RequestError
from slipway_engine.server import reasoning
from slipway_engine.server.chat_format import ChatFormat
from slipway_engine.server.completion_format import CompletionFormat
from slipway_engine.server.formats import Format, Head
from slipway_engine.server.job import Prompt
from slipway_engine.server.messages import Tool, messages_for_template, speaks_of_tools, tools_for_template
from slipway_engine.server.protocol import ChatRequest, CompletionRequest, TokenizeRequest
from slipway_engine.server.reader import AnswerReader
from slipway_engine.server.service import Service
from slipway_engine.server.text_answer import Kind, Plan
from slipway_engine.server.tools.dialects import Dialect
from slipway_engine.server.tools.reader import ToolReader

_FORMS = "{} must be a text, a list of texts, a list of token ids, or a list of lists of token ids."


async def plan_completion(service: Service, request: CompletionRequest) -> Plan:
    """Return the prompts, and how their continuations are written. Raises RequestError."""
    prompts = await read_prompts(
        service,
        request.prompt,
        "prompt",
        add_special_tokens=request.add_special_tokens is not False,
        room=0 if request.max_tokens == 0 else 1,
    )

    def new_format(head: Head) -> Format:
        return CompletionFormat(
            head,
            service.model.tokenizer,
            logprobs=request.wanted_logprobs() is not None,
            with_usage=request.usage_in_stream(),
            prompt_logprobs=request.prompt_logprobs is not None,
            echoed=prompts if request.echo else (),
            n=request.n or 1,
        )

    return Plan(prompts, new_format)


async def read_prompts(
    service: Service, given: Any, param: str, *, add_special_tokens: bool, room: int
) -> list[Prompt]:
    """Return the prompts in a field that may hold one or several. Raises RequestError."""
    prompts = []
    for part in _parts(given, param, service.settings.max_sequences):
        if isinstance(part, str):
            ids = await service.encode(part, add_special_tokens=add_special_tokens, param=param)
            prompts.append(Prompt(tuple(ids), part))
        else:
            prompts.append(Prompt(tuple(part)))
    for prompt in prompts:
        service.check_prompt(prompt.token_ids, param, room=room)
    return prompts


def _parts(given: Any, param: str, most: int) -> list[str | list[int]]:
    """Return the prompts, each a text or a list of ids."""
    if isinstance(given, str) or _are_ids(given):
        return [given]
    if not isinstance(given, list) or not given:
        raise RequestError(_FORMS.format(param), param=param)
    if len(given) > most:
        raise RequestError(f"{param} has {len(given)} prompts; one request may have {most}.", param=param)
    if all(isinstance(part, str) for part in given) or all(_are_ids(part) for part in given):
        return given
    raise RequestError(_FORMS.format(param), param=param)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


async def plan_chat(service: Service, request: ChatRequest) -> Plan:
    """Return the conversation as a prompt, and how the answer is written. Raises RequestError."""
    tools = request.offered_tools()
    dialect = service.model.templates.dialect() if tools else None
    prompt = await chat_prompt(service, request, tools)
    thinks = service.settings.reasoning_parser != "none"
    parted = thinks or dialect is not None

    def new_format(head: Head) -> Format:
        return ChatFormat(
            head,
            service.model.tokenizer,
            logprobs=request.wanted_logprobs() is not None,
            with_usage=request.usage_in_stream(),
            prompt_logprobs=request.prompt_logprobs is not None,
            new_reader=(lambda: _reader(service, prompt, dialect, tools, request)) if parted else None,
            id_length=dialect.id_length if dialect is not None else None,
        )

    tags = (reasoning.BEGIN, reasoning.END) if thinks else ()
    return Plan([prompt], new_format, (*tags, *(dialect.markers if dialect is not None else ())))


def _reader(
    service: Service, prompt: Prompt, dialect: Dialect | None, tools: Sequence[Tool], request: ChatRequest
) -> AnswerReader:
    parser = service.settings.reasoning_parser
    think = calls = None
    if parser != "none":
        think = reasoning.ThinkReader(inside=reasoning.begins_inside(parser, prompt.text or ""))
    if dialect is not None:
        most = 1 if request.parallel_tool_calls is False else None
        calls = ToolReader(dialect, [tool.function.name for tool in tools], most=most)
    return AnswerReader(think, calls)


async def chat_prompt(
    service: Service, request: ChatRequest | TokenizeRequest, tools: Sequence[Tool]
) -> Prompt:
    """Return a conversation as a prompt. The template writes its special tokens itself."""
    assert request.messages is not None
    templates = service.model.templates
    if speaks_of_tools(request.messages):
        templates.check_history()
    variables = dict(request.chat_template_kwargs or {})
    if isinstance(request, TokenizeRequest) and request.add_generation_prompt is not None:
        variables["add_generation_prompt"] = request.add_generation_prompt
    text = await templates.render(
        messages_for_template(request.messages), variables, tools_for_template(tools)
    )
    ids = await service.encode(text, add_special_tokens=bool(request.add_special_tokens), param="messages")
    service.check_prompt(ids, "messages", room=0 if isinstance(request, TokenizeRequest) else 1)
    return Prompt(tuple(ids), text)


COMPLETION = Kind("cmpl", CompletionRequest, plan_completion)
CHAT = Kind("chatcmpl", ChatRequest, plan_chat)
