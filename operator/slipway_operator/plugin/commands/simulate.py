"""Replay a deployment's own recorded load against an edit, before it is applied.

The requests of the last --since come from the Prometheus that the operator asks (through the API server's
service proxy, so you need `get` on `services/proxy` there), or from --prometheus URL. They are played against
the object as it is and as FILE would have it, with what its status knows of a replica; nothing is changed.
Single requests are made up within each step of the record; their number and their tokens are not.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from slipway_operator.kinds import DEPLOYMENT, PARENT
from slipway_operator.plugin import documents, screen
from slipway_operator.plugin.errors import PluginError, UsageError
from slipway_operator.plugin.installation import SELECTOR, prometheus_of
from slipway_operator.plugin.kubectl import Kubectl
from slipway_operator.simulate.flags import replica_flags
from slipway_operator.simulate.history import Get, by_url, gather, service_path
from slipway_operator.simulate.picture import draw, picture
from slipway_operator.simulate.replica import needed
from slipway_operator.simulate.report import report
from slipway_operator.simulate.show import show
from slipway_operator.simulate.trace import TraceError
from slipway_operator.simulate.wanted import deployment_of, metrics_of, policy_of, setting_of, slo_of
from slipway_operator.simulate.world import run as play

NAME = "simulate"
SUMMARY = "replay the recorded load against an edit, before it is applied"
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="the edited LLMDeployment")
    parser.add_argument(
        "--since", type=_seconds, default=86_400.0, metavar="DURATION", help="so far back (24h)"
    )
    parser.add_argument("--prometheus", metavar="URL", help="a Prometheus, instead of the operator's")
    parser.add_argument("--token-file", type=Path, help="bearer token for --prometheus")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (1)")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="write a plot, .svg or .png")
    replica_flags(parser)


def run(options: Namespace, cluster: Kubectl) -> int:
    """Print a row for the object as it is, and one for the edit."""
    (document, *others) = documents.deployments(options.file)
    if others:
        raise UsageError(f"{options.file} holds {len(others) + 1} deployments; give one at a time.")
    try:
        return _compare(options, cluster, document)
    except TraceError as error:
        raise PluginError(str(error)) from error


def _compare(options: Namespace, cluster: Kubectl, document: documents.Document) -> int:
    edited = deployment_of(document.body, cluster.current_namespace())
    there = replace(cluster, namespace=edited.key.namespace)
    present = deployment_of(there.get(PARENT, edited.key.name), edited.key.namespace)
    now = time.time()
    get = by_url(options.prometheus, options.token_file) if options.prometheus else _proxied(cluster)
    found = gather(get, metrics_of(present.spec), edited.key, now - options.since, now, options.seed)
    setting, remarks = setting_of(present.status, vars(options))
    if found.missing:
        remarks.append(f"{found.missing:.0%} of the time has no samples and counts as without requests.")
    slo, most = slo_of(edited.spec), setting.speed.max_num_seqs
    first = needed(found.arrivals, setting.speed, setting.speed.bears(slo.tpot))
    runs = []
    for name, one in (("as it is", present), ("edited", edited)):
        policy, more = policy_of(one.spec, name, found.begin, most)
        remarks += more
        runs.append((policy.name, play(found.arrivals, policy, setting, first=first)))
    for remark in remarks:
        screen.tell(remark)
    reports = [report(name, outcome, slo) for name, outcome in runs]
    if options.plot:
        draw(runs, options.plot)
    if options.output == "text":
        show(reports, runs, slo)
    else:
        screen.machine([asdict(one) for one in reports], options.output)
    return 0


def _proxied(cluster: Kubectl) -> Get:
    """Return how to ask the operator's Prometheus through the API server. Raises PluginError."""
    operators = cluster.find(DEPLOYMENT, selector=SELECTOR, everywhere=True)
    url = next((url for one in operators if (url := prometheus_of(one))), None)
    path = service_path(url) if url else None
    if path is None:
        raise PluginError(
            f"{'The operator asks no Prometheus' if url is None else f'{url} is no Service of the cluster'}; "
            "give one with --prometheus URL (kubectl port-forward makes one)."
        )
    return lambda query: cluster.raw(path + query)


def _seconds(text: str) -> float:
    if len(text) < 2 or text[-1] not in _UNITS or not text[:-1].isdigit() or not int(text[:-1]):
        raise ArgumentTypeError(f"{text!r} is no duration; write a number and m, h or d, such as 24h")
    return float(int(text[:-1]) * _UNITS[text[-1]])
