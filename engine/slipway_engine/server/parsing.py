"""A JSON body to a request: what there is not is refused by name, what asks for nothing is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from slipway_engine.errors import RequestError
from slipway_engine.server.problems import from_validation

_NO_TOOLS = "{} is for /v1/chat/completions, whose template tells the model of tools."
_OLD_TOOLS = "{} is OpenAI's old form; send tools and tool_choice."
_REFUSED: Mapping[str, str] = {
    "tools": _NO_TOOLS,
    "tool_choice": _NO_TOOLS,
    "parallel_tool_calls": _NO_TOOLS,
    "functions": _OLD_TOOLS,
    "function_call": _OLD_TOOLS,
    "echo": "{} is for /v1/completions; a chat's prompt is not shown.",
    "dimensions": "{} is not supported: embeddings have the model's own length.",
    "suffix": "{} is not supported: this server continues a prompt, it does not fill a gap.",
    "response_format": "{} can only be {{'type': 'text'}}: this server does not constrain answers.",
    "guided_json": "{} is not supported: this server does not constrain the answer's format.",
    "guided_regex": "{} is not supported: this server does not constrain the answer's format.",
    "guided_choice": "{} is not supported: this server does not constrain the answer's format.",
    "guided_grammar": "{} is not supported: this server does not constrain the answer's format.",
    "structured_outputs": "{} is not supported: this server does not constrain the answer's format.",
    "audio": "{} is not supported: this server answers in text.",
    "prediction": "{} is not supported; remove it.",
    "reasoning_effort": "{} is not supported; remove it.",
    "verbosity": "{} is not supported; ask for it in a message.",
    "web_search_options": "{} is not supported: this server searches nothing.",
    "chat_template": "{} cannot be sent with a request; start the server with --chat-template FILE.",
}
# Values by which clients say "not that": nothing is refused that was not asked for.
_NOT_ASKED: tuple[Any, ...] = (None, False, [], {}, "", "none", {"type": "text"})

RequestT = TypeVar("RequestT", bound=BaseModel)


def parse(kind: type[RequestT], body: bytes) -> RequestT:
    """Return the request in a JSON body. Raises RequestError."""
    try:
        return kind.model_validate(_supported(_json_object(body), kind))
    except ValidationError as error:
        raise from_validation(error) from error


def _supported(values: Mapping[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """Return the fields without those that ask for nothing; refuse those that ask for what there is not."""
    kept = {}
    for name, value in values.items():
        if name not in _REFUSED or name in kind.model_fields:
            kept[name] = value
        elif not _asks_for_nothing(name, value, values):
            raise RequestError(_REFUSED[name].format(name), param=name, code="unsupported_field")
    return kept


def _asks_for_nothing(name: str, value: Any, values: Mapping[str, Any]) -> bool:
    if name in ("tool_choice", "parallel_tool_calls") and not values.get("tools"):
        return True
    return value in _NOT_ASKED


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        values = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(values, dict):
        raise RequestError("The body is no JSON object; send {...}.", code="invalid_json")
    return values
