"""`slipway-engine generate`: one prompt, its continuation on standard output as it comes."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from slipway_engine.cli.flags import add_engine_flags, add_source_flags, engine_config, model_path, positive
from slipway_engine.core.messages import NewRequest, RequestOutput
from slipway_engine.errors import EngineError, InvalidArgument, RequestError
from slipway_engine.sampling import SamplingParams
from slipway_engine.sources.progress import waiting
from slipway_engine.tokenizer.load import load_tokenizer
from slipway_engine.tokenizer.sandbox import compile_template, render
from slipway_engine.tokenizer.tokenizer import Tokenizer


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        help="continue one prompt",
        description="Continue a prompt; nothing but the text goes to standard output.",
    )
    parser.add_argument("model", metavar="MODEL", help="GGUF file, model directory, or source")
    parser.add_argument("--prompt", required=True, help="the text to continue; - reads standard input")
    parser.add_argument(
        "--chat", action="store_true", help="put the prompt through the chat template, as a user's"
    )
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default: 0)"
    )
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="default: 1")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 is off (default: 0)")
    add_engine_flags(parser)
    add_source_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Generate; return the exit status."""

    model = model_path(arguments.model, arguments.revision, allow_http=arguments.allow_http)
    with waiting("Loading the model"):
        tokenizer = load_tokenizer(model)
        from slipway_engine.core.engine import EngineCore  # brings torch, which --help can do without

        core = EngineCore(engine_config(arguments, model))
    core.add_request(_request(arguments, tokenizer, core.ready.max_model_len))
    detokenizer = tokenizer.detokenizer()
    while core.has_work():
        for output in core.step().outputs:
            _write("".join(map(detokenizer.add, _shown(output))))
    _write(detokenizer.flush() + "\n")
    return 0


def _request(arguments: argparse.Namespace, tokenizer: Tokenizer, limit: int) -> NewRequest:
    prompt = _prompt(arguments, tokenizer)
    if not prompt or len(prompt) >= limit:
        raise RequestError(f"The prompt has {len(prompt)} tokens; 1 to {limit - 1} are possible.")
    sampling = SamplingParams(
        max_tokens=min(arguments.max_tokens, limit - len(prompt)),
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    return NewRequest("generate", tuple(prompt), sampling, time.monotonic())


def _prompt(arguments: argparse.Namespace, tokenizer: Tokenizer) -> list[int]:
    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not arguments.chat:
        return tokenizer.encode(text)
    if tokenizer.chat_template is None:
        raise InvalidArgument("This model has no chat template; leave --chat out.")
    variables = {**tokenizer.special.for_template(), "add_generation_prompt": True}
    chat = render(compile_template(tokenizer.chat_template), [{"role": "user", "content": text}], variables)
    return tokenizer.encode(chat, add_special_tokens=False)


def _shown(output: RequestOutput) -> tuple[int, ...]:
    """Return the new tokens that are text. Raises EngineError where the core could not go on."""
    if output.error is not None:
        raise EngineError(output.error)
    return output.new_token_ids[:-1] if output.finish_reason == "stop" else output.new_token_ids


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
