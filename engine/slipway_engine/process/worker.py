"""The core process's entry point: `python -m slipway_engine.process.worker --fd N [--core MODULE:CLASS]`.

It is started by `process.client` with one end of a socket pair, reads `Start` from it, loads the model and
runs the loop. It leaves when told to, when the other end closes, and when its parent dies.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from slipway_engine.config import EngineConfig
from slipway_engine.core import last_words
from slipway_engine.core.messages import Failed, Start
from slipway_engine.errors import EngineError
from slipway_engine.logs import configure_logging
from slipway_engine.process.channel import Channel, PeerGone
from slipway_engine.process.collector import settle
from slipway_engine.process.loop import Core, run
from slipway_engine.process.orphan import die_with_parent

DEFAULT_CORE = "slipway_engine.core.engine:EngineCore"

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run one core; return the process's exit status."""
    arguments = _parse(argv)
    _leave_signals_to_the_parent()
    die_with_parent(arguments.parent)
    configure_logging(arguments.log_format)
    channel = Channel(socket.socket(fileno=arguments.fd))
    last_words.at_end(lambda error: _end(channel, error))
    try:
        return _serve(arguments.core, channel)
    except PeerGone:
        log.info("The HTTP process has gone; the core leaves too.")
        return 0


def _serve(core_name: str, channel: Channel) -> int:
    try:
        core = _load(core_name, channel)
        run(core, channel)
    except EngineError as error:
        log.error("The core stops: %s", error)
        channel.send(Failed(error.reason, str(error)))
        return 1
    except PeerGone:
        raise
    except Exception as error:
        channel.send(Failed("Internal", f"The engine core failed: {type(error).__name__}: {error}"))
        raise
    return 0


def _end(channel: Channel, error: EngineError) -> None:
    """Say why, and end, from a thread beside the core's."""
    try:
        channel.send(Failed(error.reason, str(error)))
    except PeerGone:
        log.info("The HTTP process has gone before.")
    finally:
        os._exit(1)


def _load(core_name: str, channel: Channel) -> Core:
    (start,) = channel.wait()
    if not isinstance(start, Start):
        raise TypeError(f"The first message to a core is Start, not {type(start).__name__}.")
    core = _core_class(core_name)(start.config)
    settle()
    return core


def _core_class(name: str) -> Callable[[EngineConfig], Core]:
    module, _, attribute = name.partition(":")
    found: Callable[[EngineConfig], Core] = getattr(importlib.import_module(module), attribute)
    return found


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway-engine-core")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--core", default=DEFAULT_CORE)
    parser.add_argument("--log-format", default="auto")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
