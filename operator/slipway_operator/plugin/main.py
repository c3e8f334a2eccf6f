"""The command line of `kubectl slipway`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from slipway_operator.plugin.commands import (
    bench,
    chat,
    convert,
    cost,
    logs,
    plan,
    render,
    simulate,
    status,
    top,
    why,
)
from slipway_operator.plugin.errors import PluginError, UsageError
from slipway_operator.plugin.kubectl import Kubectl
from slipway_operator.plugin.screen import FORMATS, tell


class Command(Protocol):
    """What a command's module offers."""

    NAME: str
    SUMMARY: str

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own flags."""

    def run(self, options: argparse.Namespace, cluster: Kubectl) -> int:
        """Do it, and return the exit status."""


COMMANDS: Final[tuple[Command, ...]] = (
    plan,
    status,
    why,
    logs,
    chat,
    bench,
    top,
    cost,
    simulate,
    render,
    convert,
)

_DESCRIPTION = """Plan, explain, convert and try out LLMDeployments.

It reaches the cluster through kubectl, with your context and your rights. plan, render and convert
work without a cluster."""


def parser() -> argparse.ArgumentParser:
    """Return the parser with every command."""
    shared = argparse.ArgumentParser(add_help=False)
    cluster = shared.add_argument_group("cluster")
    cluster.add_argument("-n", "--namespace", help="namespace; the context's own where absent")
    cluster.add_argument("--context", help="context of the kubeconfig")
    cluster.add_argument("--kubeconfig", help="path of the kubeconfig")
    shared.add_argument("-o", "--output", choices=FORMATS, default="text", help="text for people (default)")
    made = argparse.ArgumentParser(
        prog="kubectl slipway",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        name, summary = command.NAME, command.SUMMARY
        own = subparsers.add_parser(
            name,
            help=summary,
            description=command.__doc__,
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(own)
        own.set_defaults(run=command.run)
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options. Words of a message may stand after flags, where argparse takes no more of them."""
    made = parser()
    options, rest = made.parse_known_args(arguments)
    if rest and (not hasattr(options, "message") or any(word.startswith("--") for word in rest)):
        made.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.message = [*options.message, *rest]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = parse(arguments)
    words = [
        f"--{name}={getattr(options, name)}" for name in ("context", "kubeconfig") if getattr(options, name)
    ]
    try:
        status: int = options.run(options, Kubectl(options.namespace, tuple(words)))
    except UsageError as error:
        tell(f"kubectl slipway {options.command}: {error}")
        return 2
    except PluginError as error:
        tell(f"kubectl slipway {options.command}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough, as with `| head`
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
