"""`slipway-engine fetch`: bring a model to a directory."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from slipway_engine.cli.flags import add_source_flags
from slipway_engine.sources.credentials import credential
from slipway_engine.sources.fetch import Fetch, fetch, publish
from slipway_engine.sources.tally import Tally, serving
from slipway_engine.sources.trust import trust_bundle

SIGNERS = "SLIPWAY_SIGNATURE_KEYS"
"""The variable that asks for a signature: public keys, PEM, one behind another."""


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fetch",
        help="bring a model to a directory",
        description="Fetch a model's files, resumed and checked, and print the path to serve. Only weights "
        "that run no code when they are read are fetched: safetensors and GGUF, never pickles. The token "
        "in HF_TOKEN is sent to the source; s3:// takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION "
        "and AWS_ENDPOINT_URL, gs:// GOOGLE_APPLICATION_CREDENTIALS. HF_ENDPOINT, HTTPS_PROXY and NO_PROXY "
        "are honoured, SLIPWAY_CA_BUNDLE (PEM) is trusted beside the machine's own authorities. Where "
        "SLIPWAY_SIGNATURE_KEYS holds public keys (PEM), one of them has to have signed the model.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="hf://ORG/NAME[/FILE.gguf], s3://BUCKET/PATH, gs://BUCKET/PATH, oci://HOST/REPOSITORY:TAG or "
        "https://HOST/PATH.gguf",
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


def signers() -> tuple[str, ...] | None:
    """Return the keys one of which has to have signed; None where no signature is asked for."""
    if SIGNERS not in os.environ:
        return None
    from slipway_engine.sources.signature import split_keys

    return split_keys(os.environ[SIGNERS])


def run(arguments: argparse.Namespace) -> int:
    """Fetch; print the model's path."""
    trust_bundle()
    tally = Tally()
    options = Fetch(
        arguments.revision,
        credential("HF_TOKEN"),
        token_for_https=True,
        allow_http=arguments.allow_http,
        tally=tally,
        signers=signers(),
    )
    port = arguments.progress_port
    with serving(tally, "0.0.0.0", port) if port is not None else nullcontext():  # noqa: S104 - says so in --help
        print((publish if arguments.publish else fetch)(arguments.source, arguments.to, options))
    return 0
