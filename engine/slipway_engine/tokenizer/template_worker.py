"""Renders one chat template for a parent process: `python -m slipway_engine.tokenizer.template_worker`.

A template comes with a model, so it is somebody else's program. It runs here, where a loop without end can be
killed and a flood of memory ends in an error, and where nothing but its own input can be seen. MessagePack
frames come in on standard input (the template's source first, then one render each) and go out on standard
output as `["ok", text]` or `["error", sentence]`.
"""

from __future__ import annotations

import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

import msgpack
from jinja2 import Template, TemplateError

from slipway_engine.tokenizer.sandbox import compile_template, render

MEMORY_BYTES = 1 << 30
MAX_RENDERED = 16 << 20  # characters
LONGEST_RENDER_SECONDS = 90
_HEADER = struct.Struct(">I")

# What a template's own code can raise besides TemplateError: it computes with whatever the messages hold.
_TEMPLATE_FAULTS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
    MemoryError,
)  # fmt: skip


def main() -> int:
    """Serve renders until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    source = _read(stdin)
    template: Template | None = None
    while (request := _read(stdin)) is not None:
        # Both end the process: whoever waits for the answer learns from the signal which of them it was.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        signal.alarm(LONGEST_RENDER_SECONDS)  # should the parent be gone, nobody else ends what sleeps
        try:
            template = template or compile_template(source)
            answer = _answer(render(template, request["messages"], request["variables"]))
        except _TEMPLATE_FAULTS as error:
            answer = ("error", f"{error}"[:2000] or type(error).__name__)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(stdout, answer)
    return 0


def _answer(text: str) -> tuple[str, str]:
    if len(text) > MAX_RENDERED:
        return "error", f"the rendered prompt has {len(text)} characters; at most {MAX_RENDERED} are allowed"
    return "ok", text


def _read(stream: BinaryIO) -> Any:
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    return msgpack.unpackb(stream.read(_HEADER.unpack(header)[0]), raw=False, strict_map_key=False)


def _write(stream: BinaryIO, answer: tuple[str, str]) -> None:
    payload = msgpack.packb(answer, unicode_errors="replace")
    stream.write(_HEADER.pack(len(payload)) + payload)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
