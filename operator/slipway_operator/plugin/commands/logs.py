"""Show the logs of a deployment's engine pods, all of them together.

kubectl slipway logs assistant -f
kubectl slipway logs assistant --fetch     the download's log instead of the engine's
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from slipway_api import names
from slipway_operator.kinds import PARENT
from slipway_operator.plugin.kubectl import Kubectl

NAME = "logs"
SUMMARY = "show the logs of a deployment's pods"
MOST_PODS = "50"


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("name", help="the LLMDeployment")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    parser.add_argument("--tail", default="100", metavar="LINES", help="last lines of each pod (default 100)")
    parser.add_argument("--since", metavar="DURATION", help="only younger lines, such as 10m")
    parser.add_argument("--fetch", action="store_true", help="the log of the model's download")
    parser.add_argument("-p", "--previous", action="store_true", help="the attempt before the last restart")


def run(options: Namespace, cluster: Kubectl) -> int:
    """Become `kubectl logs` with the right selector."""
    cluster.get(PARENT, options.name)  # a wrong name is an error, not an empty log
    selector = ",".join(f"{key}={value}" for key, value in names.selector_of(options.name).items())
    container = names.FETCH_CONTAINER if options.fetch else names.ENGINE_CONTAINER
    words = ["logs", "-l", selector, "-c", container, "--prefix", f"--tail={options.tail}"]
    words += [f"--max-log-requests={MOST_PODS}"]
    words += ["-f"] if options.follow else []
    words += ["--previous"] if options.previous else []
    words += [f"--since={options.since}"] if options.since else []
    cluster.replace_process(*words)
    return 0
