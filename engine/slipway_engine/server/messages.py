"""The messages of a chat and the tools offered with it: as clients send them, and as templates expect them.

Transformers' conventions hold for templates: each message has a role and one text; a call's arguments are an
object, not its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field

from slipway_engine.errors import RequestError

MAX_NAME = 256
MAX_CALLS = 128

Name = Annotated[str, Field(max_length=MAX_NAME)]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]


class Function(BaseModel):
    """A function that the model may call; `parameters` is a JSON schema."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """One tool of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    function: Function


class CalledFunction(BaseModel):
    """What an assistant called; `arguments` is the text of a JSON object. Models make up any name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    arguments: str = "{}"


class ToolCall(BaseModel):
    """One call in an assistant's message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(BaseModel):
    """One message; `content` is a text or a list of `{"type": "text", "text": ...}`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


def messages_for_template(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """Return the messages as chat templates expect them. Raises RequestError."""
    return [_for_template(at, message) for at, message in enumerate(messages)]


def tools_for_template(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return the tools as chat templates expect them: as they were sent."""
    return [tool.model_dump(exclude_unset=True) for tool in tools]


def speaks_of_tools(messages: list[ChatMessage]) -> bool:
    """Return whether tools were called in the conversation so far."""
    return any(message.role == "tool" or message.tool_calls for message in messages)


def _for_template(at: int, message: ChatMessage) -> dict[str, Any]:
    field = f"messages.{at}"
    # "developer" is OpenAI's newer word for what models were trained to read as "system".
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": _text(f"{field}.content", message)}
    if message.name is not None:
        plain["name"] = message.name
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        if message.role != "assistant":
            raise RequestError(
                f"{field}.tool_calls belongs to the assistant; the role is {role!r}.", param=field
            )
        plain["tool_calls"] = [
            _call(f"{field}.tool_calls.{number}", call) for number, call in enumerate(message.tool_calls)
        ]
    if message.role == "tool":
        if message.tool_call_id is None:
            raise RequestError(f"{field}.tool_call_id is missing; say which call this answers.", param=field)
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _call(field: str, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(field, call.function.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(field: str, text: str) -> dict[str, Any]:
    field += ".function.arguments"
    try:
        values = pydantic_core.from_json(text or "{}", allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"{field} is not valid JSON: {error}.", param=field) from error
    if not isinstance(values, dict):
        raise RequestError(f'{field} must be the text of a JSON object, as "{{}}".', param=field)
    return values


def _text(field: str, message: ChatMessage) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if content is None and message.role == "assistant":
        return ""
    if isinstance(content, list) and content:
        return "\n".join(_part(f"{field}.{at}", part) for at, part in enumerate(content))
    raise RequestError(f'{field} must be a text or a list of {{"type": "text", "text": ...}}.', param=field)


def _part(field: str, part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    kind = part.get("type") if isinstance(part, dict) else None
    raise RequestError(
        f'{field} is of type {str(kind)[:40]!r}; this model reads text: {{"type": "text", "text": ...}}.',
        param=field,
    )
