"""`slipway-engine fetch`: bring a model to a directory."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from slipway_engine.cli.flags import add_source_flags
from slipway_engine.sources.fetch import Fetch, fetch


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fetch",
        help="bring a model to a directory",
        description="Fetch a model's files, resumed and checked, and print the path to serve. Only weights "
        "that run no code when they are read are fetched: safetensors and GGUF, never pickles. The token "
        "in HF_TOKEN is sent to the source.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="hf://ORG/NAME[/FILE.gguf] or https://HOST/PATH.gguf"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the files go")
    add_source_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Fetch; print the model's path."""
    options = Fetch(
        arguments.revision,
        os.environ.get("HF_TOKEN") or None,
        token_for_https=True,
        allow_http=arguments.allow_http,
    )
    print(fetch(arguments.source, arguments.to, options))
    return 0
