"""Talk to a deployment from the terminal.

kubectl slipway chat assistant                      a conversation; an empty line or Ctrl-D ends it
kubectl slipway chat assistant "What is a pod?"     one question
git diff | kubectl slipway chat assistant "Summarise:" -
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

from slipway_operator.plugin import endpoint, openai, screen
from slipway_operator.plugin.errors import PluginError, UsageError
from slipway_operator.plugin.kubectl import Kubectl

NAME = "chat"
SUMMARY = "talk to a deployment"


@dataclass(frozen=True)
class Asked:
    """How to ask: the sampling and the system prompt."""

    model: str
    system: str | None
    max_tokens: int
    temperature: float


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("name", help="the LLMDeployment")
    parser.add_argument("message", nargs="*", help="one question; `-` stands for standard input")
    parser.add_argument("--model", help="served name to ask for; the first one where absent")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest answer (default 512)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default 0.7)")
    endpoint.arguments(parser)


def run(options: Namespace, cluster: Kubectl) -> int:
    """Ask once, or hold a conversation."""
    words = [sys.stdin.read() if word == "-" else word for word in options.message]
    if not words and not sys.stdin.isatty():
        raise UsageError("standard input is no terminal; write the question, or `-` to read it from there.")
    with endpoint.reach(options, cluster) as base:
        asyncio.run(_talk(options, base, " ".join(words)))
    return 0


async def _talk(options: Namespace, base: str, question: str) -> None:
    async with openai.session() as session:
        client = openai.Client(session, base, options.key)
        names = [options.model] if options.model else await client.models()
        if not names:
            raise PluginError("The endpoint serves no model yet; try again in a moment.")
        asked = Asked(names[0], options.system, options.max_tokens, options.temperature)
        history = [{"role": "system", "content": asked.system}] if asked.system else []
        if question:
            await _ask(client, asked, [*history, {"role": "user", "content": question}])
            return
        while question := await asyncio.to_thread(_prompt):
            history.append({"role": "user", "content": question})
            history.append({"role": "assistant", "content": await _ask(client, asked, history)})


async def _ask(client: openai.Client, asked: Asked, messages: list[dict[str, str]]) -> str:
    """Print the answer as it comes, and what it took; return it."""
    began, first, parts, tokens = time.monotonic(), None, [], None
    async for piece in client.chat(
        asked.model, messages, max_tokens=asked.max_tokens, temperature=asked.temperature
    ):
        first = first or (piece.at if piece.text else None)
        tokens = piece.completion_tokens or tokens
        parts.append(piece.text)
        print(piece.text, end="", flush=True)
    print()
    if tokens and first and sys.stdout.isatty():
        rate = (tokens - 1) / max(time.monotonic() - first, 1e-6)
        screen.tell(f"{tokens} tokens, first after {1000 * (first - began):.0f} ms, then {rate:.0f} tokens/s")
    return "".join(parts)


def _prompt() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
