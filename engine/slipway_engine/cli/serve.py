"""`slipway-engine serve`: a model, or the engine that an object describes, behind HTTP."""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from slipway_engine.cli import deployment
from slipway_engine.cli.flags import (
    add_engine_flags,
    add_parallel_flags,
    add_source_flags,
    engine_config,
    model_path,
    positive,
    seconds,
)
from slipway_engine.parallel.environment import group_pod
from slipway_engine.process.client import CoreCommand
from slipway_engine.server.reasoning import PARSERS as REASONING_PARSERS
from slipway_engine.server.settings import ALIASES, DRAIN_SECONDS, ServerSettings
from slipway_engine.server.tools.dialects import DIALECTS

_ABOUT = """\
Serve a model behind OpenAI's API: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models,
and /tokenize, /detokenize, /health, /ready, /metrics, /version, /openapi.json.

The first SIGTERM or Ctrl-C stops new requests and lets what runs finish; the second ends the server."""

_EXAMPLES = """\
examples:
  slipway-engine serve ./model.gguf --served-model-name assistant
  slipway-engine serve hf://Qwen/Qwen2.5-0.5B-Instruct --max-model-len 8192 --max-num-seqs 16
  slipway-engine serve ./model --tool-call-parser hermes --metrics-aliases vllm
  slipway-engine serve -f examples/smollm2.yaml

docs/reference/engine.md has every endpoint, field, flag and metric."""


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="GGUF file, model directory, or source")
    parser.add_argument(
        "-f", "--file", type=Path, metavar="YAML", help="serve what the LLMDeployment in this file describes"
    )
    _add_server_flags(parser)
    add_engine_flags(parser)
    add_parallel_flags(parser)
    add_source_flags(parser)
    parser.set_defaults(run=lambda arguments: run(parser, arguments))
    return parser


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    group.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    group.add_argument(
        "--served-model-name",
        nargs="+",
        metavar="NAME",
        help="names that requests may use (default: the model's path)",
    )
    group.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="a Jinja file, in place of the model's"
    )
    group.add_argument(
        "--drain-seconds",
        type=seconds,
        metavar="S",
        help="how long running requests may go on after SIGTERM (default: 300)",
    )
    group.add_argument(
        "--max-body-bytes", type=positive, default=8 << 20, metavar="N", help="longest body (default: 8 MiB)"
    )
    group.add_argument(
        "--tool-call-parser",
        choices=("auto", "none", *DIALECTS),
        default="auto",
        help="how the model writes calls of tools (default: auto, as its chat template tells)",
    )
    group.add_argument(
        "--reasoning-parser",
        choices=REASONING_PARSERS,
        default="none",
        help="part a chat's thinking from its answer, as reasoning_content (default: none, all is content)",
    )
    group.add_argument(
        "--generation-config",
        default="auto",
        metavar="auto|none|DIR",
        help="whose generation_config.json fills in what requests leave out: the model's (auto), nobody's "
        "(none), or that of a directory (default: auto)",
    )
    _add_watching_flags(parser)


def _add_watching_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("watching")
    group.add_argument(
        "--metrics-aliases",
        choices=ALIASES,
        default="none",
        help="vllm: show each metric under vLLM's prefix too (default: none)",
    )
    group.add_argument(
        "--log-prompts", action="store_true", help="write prompts to the log (default: never a word of them)"
    )
    group.add_argument(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="send an OpenTelemetry span a request there, over OTLP/HTTP; needs the extra 'tracing'",
    )
    group.add_argument(
        "--enable-profiling",
        action="store_true",
        help="allow POST /debug/profile, which writes a trace of some steps",
    )
    group.add_argument(
        "--profile-dir",
        type=Path,
        metavar="DIR",
        help="where traces go (default: slipway-profiles in the directory for temporary files)",
    )


def run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Serve; return the exit status."""
    from slipway_engine.server.run import serve  # brings the web framework, which --help can do without

    if (arguments.model is None) == (arguments.file is None):
        parser.error("give either MODEL or -f YAML")
    if arguments.file is not None:
        take_over(arguments)
    model = model_path(arguments.model, arguments.revision, allow_http=arguments.allow_http)
    settings = ServerSettings(
        host=arguments.host,
        port=arguments.port,
        served_names=tuple(arguments.served_model_name or [arguments.model]),
        drain_seconds=DRAIN_SECONDS if arguments.drain_seconds is None else arguments.drain_seconds,
        max_body_bytes=arguments.max_body_bytes,
        chat_template=arguments.chat_template,
        tool_call_parser=arguments.tool_call_parser,
        reasoning_parser=arguments.reasoning_parser,
        generation_config=arguments.generation_config,
        log_prompts=arguments.log_prompts,
        metrics_aliases=arguments.metrics_aliases,
        profile_dir=_profile_dir(arguments),
        otlp_endpoint=arguments.otlp_traces_endpoint,
    )
    config, pod = engine_config(arguments, model), group_pod(os.environ)
    if pod.index:
        from slipway_engine.parallel.pod import serve_ranks

        return serve_ranks(config, pod, arguments.host, arguments.port, arguments.log_format)
    config = replace(config, group_size=pod.size)
    return serve(config, settings, CoreCommand(log_format=arguments.log_format))


def _profile_dir(arguments: argparse.Namespace) -> Path | None:
    """Return where traces go; None where none may be taken."""
    if not arguments.enable_profiling:
        return None
    return arguments.profile_dir or Path(tempfile.gettempdir(), "slipway-profiles")


def take_over(arguments: argparse.Namespace) -> None:
    """Let the object in the file say what the command line did not."""
    described = deployment.read(arguments.file)
    arguments.model = deployment.source_here(described.source)
    arguments.revision = arguments.revision or described.revision
    for name, value in described.flags.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
