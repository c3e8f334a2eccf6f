"""How the families of models write tool calls, and which of them a chat template teaches.

    hermes        <tool_call>{"name": ..., "arguments": {...}}</tool_call>
                  Hermes 2 and 3, Qwen 2.5 and 3, SmolLM3, Granite 4
    llama3_json   {"name": ..., "parameters": {...}}, after <|python_tag|> or as the whole answer
                  Llama 3.1, 3.2, 3.3
    mistral       [TOOL_CALLS][{"name": ..., "arguments": {...}}], or [TOOL_CALLS]name[ARGS]{...}
                  Mistral 7B v0.3 and later
    granite       <|tool_call|>[{"name": ..., "arguments": {...}}]
                  Granite 3

The names are vLLM's (`--tool-call-parser`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to write calls.

    Attributes:
        begin: texts that announce a call.
        end: text that closes it, where there is one.
        unmarked: an answer may also begin with a call that nothing announces.
        named: the name may stand before the arguments instead of in one object with them.
        inner: further special tokens within a call.
        id_length: letters and digits of a call's id, where the family's templates insist on a number.
    """

    name: str
    begin: tuple[str, ...]
    end: str = ""
    unmarked: bool = False
    named: bool = False
    inner: tuple[str, ...] = ()
    id_length: int | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that must stay visible even where they are special tokens."""
        return tuple(text for text in (*self.begin, self.end, *self.inner) if text)


HERMES = Dialect("hermes", ("<tool_call>",), "</tool_call>")
LLAMA = Dialect("llama3_json", ("<|python_tag|>",), unmarked=True)
MISTRAL = Dialect("mistral", ("[TOOL_CALLS]",), named=True, inner=("[ARGS]", "[CALL_ID]"), id_length=9)
GRANITE = Dialect("granite", ("<|tool_call|>", "<tool_call>"))
DIALECTS = {dialect.name: dialect for dialect in (HERMES, LLAMA, MISTRAL, GRANITE)}

_TAKES_TOOLS = re.compile(r"\btools\b")
_LLAMA_ASKS = re.compile(r'"name\\?":\s*function name,\s*\\?"parameters')


def takes_tools(template: str) -> bool:
    """Return whether a chat template reads the variable `tools`."""
    return _TAKES_TOOLS.search(template) is not None


def detect(template: str) -> Dialect | None:
    """Return the dialect that a chat template teaches; None where it teaches none of ours."""
    if not takes_tools(template):
        return None
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<|tool_call|>" in template:
        return GRANITE
    if "<tool_call>" in template:
        # The same tags around XML (<function=...>, <arg_key>) are another dialect.
        return None if "<function=" in template or "<arg_key>" in template else HERMES
    if "<|python_tag|>" in template or _LLAMA_ASKS.search(template.replace("\\", "")):
        return LLAMA
    return None
