"""The command line: `slipway-operator run`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

from slipway_operator.app import run
from slipway_operator.errors import OperatorError
from slipway_operator.logs import configure
from slipway_operator.settings import parse_settings

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator; return the exit status."""
    settings = parse_settings(sys.argv[1:] if arguments is None else arguments)
    configure(settings.log_level)
    try:
        return asyncio.run(run(settings))
    except OperatorError as error:
        logger.error("%s", error)
        return 1
