"""`slipway-engine`: one parser, one place where errors become exit statuses."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from slipway_engine.cli import bench, eval, fetch, generate, inspect, plan, serve
from slipway_engine.errors import EngineError
from slipway_engine.logs import FORMATS, configure_logging
from slipway_engine.termination import write_termination_log

log = logging.getLogger(__name__)

_ABOUT = """\
Serve a language model behind an OpenAI-compatible API.

A model is a GGUF file, a directory with config.json and safetensors, or a source to fetch first:
  hf://ORG/NAME              a repository of a Hugging Face hub (HF_TOKEN and HF_ENDPOINT are honoured)
  hf://ORG/NAME/FILE.gguf    one file of it
  https://HOST/PATH.gguf     a file"""

_EXAMPLES = """\
examples:
  slipway-engine serve ./SmolLM2-135M-Instruct.Q4_1.gguf --served-model-name smollm2
  slipway-engine serve -f examples/smollm2.yaml          # the engine that an LLMDeployment describes
  slipway-engine generate ./model.gguf --prompt "The capital of France is" --max-tokens 16
  slipway-engine fetch hf://HuggingFaceTB/SmolLM2-135M-Instruct --to ./smollm2
  slipway-engine inspect hf://HuggingFaceTB/SmolLM2-135M-Instruct      # its facts, without its weights
  slipway-engine plan hf://Qwen/Qwen3-8B --device nvidia-l4-24gb       # does it fit, and for how many
  slipway-engine eval ./model.gguf --quantization int8     # what a mode costs in quality
  slipway-engine bench --url http://127.0.0.1:8000 --requests 32 --concurrency 8

then:
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "Hello"}]}'"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 1 for a failure it can name, 2 for a wrong command line."""
    arguments = _parser().parse_args(argv)
    configure_logging(arguments.log_format, getattr(logging, arguments.log_level.upper()))
    try:
        status: int = arguments.run(arguments)
        return status
    except EngineError as error:
        log.error("%s", error, extra={"reason": error.reason})
        return _failed(arguments.command, error.reason, str(error))
    except BrokenPipeError:  # who read the output has gone: what is still in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        log.exception("An unexpected error ended the command.")
        return _failed(arguments.command, "Internal", f"{type(error).__name__}: {error}; the log says more.")


def _failed(command: str, reason: str, message: str) -> int:
    """Leave the last words of a command that a cluster runs; return the exit status."""
    if command in ("serve", "fetch", "inspect"):
        write_termination_log(reason, message)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slipway-engine",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"slipway-engine {version('slipway')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (serve, generate, plan, fetch, inspect, eval, bench):
        added = command.add(commands)
        logging_group = added.add_argument_group("logging")
        logging_group.add_argument(
            "--log-format", choices=FORMATS, default="auto", help="auto: text on a terminal, else JSON"
        )
        logging_group.add_argument(
            "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: info"
        )
    return parser
