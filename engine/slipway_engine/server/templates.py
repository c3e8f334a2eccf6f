"""The chat templates of a model: one for all chats, or a second one for those with tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slipway_engine.errors import InvalidArgument, RequestError
from slipway_engine.server.tools.dialects import DIALECTS, Dialect, detect, takes_tools
from slipway_engine.tokenizer.chat import ChatTemplate
from slipway_engine.tokenizer.tokenizer import Tokenizer


class Templates:
    """Renders chats, and knows how the model answers with calls.

    `file` is used in place of the model's own templates; `parser` names the dialect of calls, or "auto" to
    tell it from the template, or "none" to offer no tools.
    """

    def __init__(self, tokenizer: Tokenizer, *, file: Path | None = None, parser: str = "auto") -> None:
        plain, tools = tokenizer.chat_template, tokenizer.tool_template
        if file is not None:
            plain, tools = _read(file), None
        for_tools = tools if tools is not None else plain
        variables = tokenizer.special.for_template()
        self._plain = ChatTemplate(plain, variables) if plain is not None else None
        self._tools = ChatTemplate(tools, variables) if tools is not None else self._plain
        self._takes_tools = for_tools is not None and takes_tools(for_tools)
        self._dialect = _dialect(parser, for_tools or "")

    async def warm(self) -> None:
        """Start what renders, so that the first chat need not wait for it."""
        if self._plain is not None:
            await self._plain.warm()

    async def close(self) -> None:
        """End what renders."""
        for template in (self._plain, self._tools):
            if template is not None:
                await template.close()

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Return the prompt for a chat. Raises RequestError."""
        template = self._tools if tools else self._plain
        if template is None:
            raise RequestError(
                "This model has no chat template; use /v1/completions, or start with --chat-template FILE.",
                param="messages",
                code="no_chat_template",
            )
        return await template.render(messages, {**(variables or {}), **({"tools": tools} if tools else {})})

    def check_history(self) -> None:
        """Refuse calls and results of tools in a conversation where the template has no words for them."""
        if not self._takes_tools:
            raise RequestError(
                "messages hold calls of tools, which this model's chat template does not know; use text.",
                param="messages",
                code="no_tools",
            )

    def dialect(self) -> Dialect:
        """Return how the model writes calls. Raises RequestError where no tools can be offered."""
        if not self._takes_tools:
            raise RequestError(
                "tools are not supported: this model's chat template takes none. Describe them in a message, "
                "or start the server with a --chat-template that does.",
                param="tools",
                code="no_tools",
            )
        if self._dialect is None:
            raise RequestError(
                "tools are not supported: how this model writes calls is unknown here; start the server with "
                f"--tool-call-parser, one of {', '.join(DIALECTS)}.",
                param="tools",
                code="no_tool_call_parser",
            )
        return self._dialect


def _dialect(parser: str, template: str) -> Dialect | None:
    return detect(template) if parser == "auto" else DIALECTS.get(parser)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"--chat-template {path} cannot be read: {error}.") from error
