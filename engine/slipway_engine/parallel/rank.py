"""A rank other than the first: `python -m slipway_engine.parallel.rank --leader HOST:PORT --rank N ...`.

It joins the leader, loads its shard, and computes the steps that it is told. It serves no requests. It ends
when told to, when the leader is gone or silent, and, in the leader's pod, when its parent dies.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from slipway_engine.core import last_words
from slipway_engine.errors import EngineError, GroupBroken
from slipway_engine.logs import configure_logging
from slipway_engine.parallel.follower import Follower
from slipway_engine.parallel.report import Report
from slipway_engine.parallel.terms import SECRET, degrees_of
from slipway_engine.process.collector import settle
from slipway_engine.process.orphan import die_with_parent
from slipway_engine.termination import write_termination_log

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run one rank; return the process's exit status."""
    arguments = _parse(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(arguments.parent)
    configure_logging(arguments.log_format)
    report = Report(arguments.report_fd)
    follower = Follower(
        arguments.rank, degrees_of(arguments.degrees), arguments.model, arguments.local, report
    )

    def end(error: EngineError) -> None:
        _say(report, error)
        os._exit(1)  # the main thread may be within a collective that never returns

    last_words.at_end(end)
    host, _, port = arguments.leader.rpartition(":")
    try:
        follower.join(host, int(port), arguments.seconds, os.environ.get(SECRET, ""))
        follower.load()
        settle()
        follower.run()
    except EngineError as error:
        follower.confess(error)
        _say(report, error)
        return 1
    except Exception as error:
        follower.confess(GroupBroken("Internal", f"{type(error).__name__}: {error}"))
        raise
    return 0


def _say(report: Report, error: EngineError) -> None:
    log.error("The rank stops: %s", error, extra={"reason": error.reason})
    report.failed(error.reason, str(error))
    if report.alone:
        write_termination_log(error.reason, str(error))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway-engine-rank")
    parser.add_argument("--leader", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--degrees", required=True)
    parser.add_argument("--local", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--report-fd", type=int)
    parser.add_argument("--log-format", default="auto")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
