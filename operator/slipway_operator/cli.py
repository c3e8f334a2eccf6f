"""The command line: `slipway-operator run`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from slipway_operator.app import run
from slipway_operator.logs import configure
from slipway_operator.settings import parse_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator; return the exit status."""
    settings = parse_settings(sys.argv[1:] if arguments is None else arguments)
    configure(settings.log_level)
    return asyncio.run(run(settings))
