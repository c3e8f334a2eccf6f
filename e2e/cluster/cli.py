"""The command line: reads the words, calls the provider, prints one sentence for an error."""

import argparse
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence

from e2e.cluster import cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import Progress, duration
from e2e.cluster.provider import Status

HANDED_OVER = ("helm", "images")  # whose further words their own modules read


def parser() -> argparse.ArgumentParser:
    """The commands and their words."""
    root = argparse.ArgumentParser(
        prog="python3 -m e2e.cluster",
        description="A real Kubernetes for tests and demo: kind, a cluster of yours, or this machine.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="make the cluster be there; a second time changes nothing")
    down = commands.add_parser(
        "down", help="take it away; built programs and loaded images stay for the next one"
    )
    down.add_argument("--purge", action="store_true", help="delete the loaded images too")
    status = commands.add_parser("status", help="what runs, and where its files are")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text")
    commands.add_parser("kubeconfig", help="print the path of a kubeconfig")
    commands.add_parser("kubectl", help="print the path of a kubectl")
    load = commands.add_parser("load", help="make images available to the cluster")
    load.add_argument("image", nargs="+", help="an OCI archive, an OCI layout, or a name in local storage")
    commands.add_parser("helm", help="print the path of a Helm", add_help=False)
    commands.add_parser("images", help="build the project's images", add_help=False)
    restart = commands.add_parser("restart", help="end a component and start it again")
    restart.add_argument("component", nargs="+", help="apiserver, kubelet, scheduler, etcd, containerd, ...")
    return root


def describe(status: Status) -> str:
    """The status as text."""
    head = [
        f"provider    {status.provider}: {status.why}",
        f"running     {'yes' if status.running else 'no'}",
    ]
    named = {
        "kubernetes": status.kubernetes,
        "node": status.node,
        "kubeconfig": status.kubeconfig,
        "kubectl": status.kubectl,
        "audit log": status.audit_log,
        "logs": status.logs,
    }
    lines = [f"{name:<11} {value}" for name, value in named.items() if value]
    places = [f"{name:<11} {value}" for name, value in status.addresses.items()]
    programs = [f"{one.name:<25} {one.pid or 'does not run'}" for one in status.components]
    return "\n".join([*head, *lines, *places, *programs])


def _up(progress: Progress) -> int:
    provider = cluster.up(progress)
    progress.tell(f"The cluster is up after {duration(progress.elapsed)}.")
    progress.tell(f"export KUBECONFIG={provider.kubeconfig()}")
    return 0


def _status(progress: Progress, output: str) -> int:
    status = cluster.open_cluster(progress).status()
    print(json.dumps(status.as_dict(), indent=2) if output == "json" else describe(status))
    return 0 if status.running else 3


def _hand_over(command: str, rest: list[str]) -> int:
    """Let the module of that name read the rest of the words; only then is it imported."""
    status: int = importlib.import_module(f"e2e.cluster.{command}").main(rest)
    return status


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Does what one command says."""
    match arguments.command:
        case "up":
            return _up(progress)
        case "down":
            cluster.down(progress, purge=arguments.purge)
        case "status":
            return _status(progress, arguments.output)
        case "helm" | "images":  # HANDED_OVER
            return _hand_over(arguments.command, arguments.rest)
        case "kubeconfig":
            print(cluster.open_cluster(progress).kubeconfig())
        case "kubectl":
            print(cluster.open_cluster(progress).kubectl())
        case "load":
            cluster.open_cluster(progress).load(arguments.image)
        case "restart":
            for component in arguments.component:
                cluster.open_cluster(progress).restart(component)
    return 0


def main(words: Sequence[str]) -> int:
    """Runs the tool and returns its exit status."""
    arguments = parser().parse_args(words[:1] if words and words[0] in HANDED_OVER else words)
    arguments.rest = list(words[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up after both in the same way
    try:
        status = run(arguments, Progress())
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next `up` goes on from here, and `down` takes it away.", file=sys.stderr)
        return 130
