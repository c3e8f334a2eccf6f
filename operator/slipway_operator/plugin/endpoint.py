"""The way to a deployment's API from the user's machine: a forwarded port, or a URL that was given."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from slipway_api import names
from slipway_api.conditions import Condition
from slipway_operator.kinds import PARENT
from slipway_operator.plugin.errors import PluginError
from slipway_operator.plugin.kubectl import Kubectl


def arguments(parser: ArgumentParser) -> None:
    """Add the flags by which a URL is given instead of a forwarded port."""
    parser.add_argument(
        "--url", help="base URL, such as the gateway's; a port of the Service is forwarded else"
    )
    parser.add_argument("--key", help="API key, where the URL wants one")


@contextmanager
def reach(options: Namespace, cluster: Kubectl) -> Iterator[str]:
    """Yield the base URL. Raises PluginError where nothing serves, with the operator's sentence."""
    if options.url:
        yield str(options.url)
        return
    status = cluster.get(PARENT, options.name).get("status") or {}
    if not status.get("readyReplicas"):
        raise PluginError(f"No replica of {options.name} serves. {_sentence(status)}".strip())
    with cluster.forward(f"service/{options.name}", names.SERVICE_PORT) as port:
        yield f"http://127.0.0.1:{port}"


def _sentence(status: dict[str, object]) -> str:
    conditions = status.get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if condition.get("type") == Condition.READY:
            return str(condition.get("message") or "")
    return ""
