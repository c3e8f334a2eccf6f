"""`slipway-engine fetch`: bring a model to a directory."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from slipway_engine.cli.flags import add_source_flags
from slipway_engine.sources.fetch import Fetch, fetch, publish
from slipway_engine.sources.tally import Tally, serving
from slipway_engine.sources.trust import trust_bundle


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fetch",
        help="bring a model to a directory",
        description="Fetch a model's files, resumed and checked, and print the path to serve. Only weights "
        "that run no code when they are read are fetched: safetensors and GGUF, never pickles. The token "
        "in HF_TOKEN is sent to the source; HF_ENDPOINT, HTTPS_PROXY and NO_PROXY are honoured, and "
        "SLIPWAY_CA_BUNDLE (certificates, PEM) is trusted beside the machine's own authorities.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="hf://ORG/NAME[/FILE.gguf] or https://HOST/PATH.gguf"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="work in DIR.partial and rename it to DIR when everything is there and checked",
    )
    parser.add_argument(
        "--progress-port",
        type=int,
        metavar="PORT",
        help="serve GET /progress (bytes, total, rate as JSON) on this port, all addresses",
    )
    add_source_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Fetch; print the model's path."""
    trust_bundle()
    tally = Tally()
    options = Fetch(
        arguments.revision,
        os.environ.get("HF_TOKEN") or None,
        token_for_https=True,
        allow_http=arguments.allow_http,
        tally=tally,
    )
    port = arguments.progress_port
    with serving(tally, "0.0.0.0", port) if port is not None else nullcontext():  # noqa: S104 - says so in --help
        print((publish if arguments.publish else fetch)(arguments.source, arguments.to, options))
    return 0
