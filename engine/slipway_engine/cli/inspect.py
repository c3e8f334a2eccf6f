"""`slipway-engine inspect`: what a source holds, as JSON, without fetching the weights."""

from __future__ import annotations

import argparse
from typing import Any

from slipway_api.facts import FactsError
from slipway_api.inspection import encode
from slipway_engine.cli.flags import add_source_flags
from slipway_engine.errors import ModelUnsupported
from slipway_engine.sources.credentials import credential
from slipway_engine.sources.fetch import Fetch
from slipway_engine.sources.inspect import inspect
from slipway_engine.sources.trust import trust_bundle
from slipway_engine.termination import write_report


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect",
        help="tell what a model is, without its weights",
        description="Read a model's configuration and the headers of its files (over a network by HTTP "
        "ranges) and print its facts as JSON: commit, digest, licence, sizes. In a pod the same goes to the "
        "termination message. Credentials, endpoints, proxies and authorities work as for fetch.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="hf://ORG/NAME[/FILE.gguf], s3://BUCKET/PATH, gs://BUCKET/PATH, oci://HOST/REPOSITORY:TAG, "
        "https://HOST/PATH.gguf, file:///PATH or a path",
    )
    add_source_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Inspect; print the facts and leave them as the pod's last words."""
    trust_bundle()
    options = Fetch(
        arguments.revision,
        credential("HF_TOKEN"),
        token_for_https=True,
        allow_http=arguments.allow_http,
    )
    try:
        text = encode(inspect(arguments.source, options))
    except FactsError as error:
        raise ModelUnsupported(str(error)) from error
    print(text)
    write_report(text)
    return 0
