"""The command line of `slipway-simulate`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from slipway_operator.autoscale.terms import Bounds
from slipway_operator.simulate import policies
from slipway_operator.simulate.flags import positive, replica_flags
from slipway_operator.simulate.history import by_url, gather
from slipway_operator.simulate.picture import draw, picture
from slipway_operator.simulate.replica import needed
from slipway_operator.simulate.report import Slo, report
from slipway_operator.simulate.show import show
from slipway_operator.simulate.trace import Arrival, TraceError, burst_day, read, stretched
from slipway_operator.simulate.wanted import (
    Deployment,
    load,
    metrics_of,
    policy_of,
    setting_of,
    slo_of,
)
from slipway_operator.simulate.world import Outcome, Policy, run

_DESCRIPTION = """Play traffic against Slipway's autoscaling policy, and against others for comparison.

The policy is the operator's own module; the replicas are simulated (continuous batching in fluid form)
with the speed that the flags give: take them from `kubectl slipway bench`. Without --trace a day of waves
and bursts is made up."""

_EPILOG = """A trace is CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens, such as Azure's public
LLM inference traces; those are not shipped, download them from the AzurePublicDataset repository."""

CHOICES: Final = ("slipway", "static", "hpa", "keda", "knative", "in-flight")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        asked = _asked(options)
        runs, remarks = _runs(options, asked)
    except TraceError as error:
        _say(str(error))
        return 2
    for remark in remarks:
        _say(remark)
    reports = [report(name, outcome, asked.slo) for name, outcome in runs]
    if options.plot:
        draw(runs, options.plot)
    if options.output == "json":
        print(json.dumps([asdict(one) for one in reports], indent=2))
    else:
        show(reports, runs, asked.slo)
    return 0


@dataclass(frozen=True)
class _Asked:
    """What is simulated: the traffic since `begin`, the object if there is one, the SLO."""

    trace: Sequence[Arrival]
    begin: float
    deployment: Deployment | None
    slo: Slo


def _asked(options: argparse.Namespace) -> _Asked:
    deployment = load(options.file) if options.file else None
    slo = slo_of(deployment.spec) if deployment else Slo(options.slo_ttft, options.slo_tpot)
    if options.prometheus is None:
        return _Asked(_trace(options), 0.0, deployment, slo)
    if deployment is None:
        raise TraceError("--prometheus needs -f, which names the deployment whose requests are meant.")
    now = time.time()
    get, begin = by_url(options.prometheus, options.token_file), now - 3600 * options.since
    found = gather(get, metrics_of(deployment.spec), deployment.key, begin, now, options.seed)
    if found.missing:
        _say(f"{found.missing:.0%} of the time has no samples; it counts as time without requests.")
    return _Asked(found.arrivals, found.begin, deployment, slo)


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"slipway-simulate: {text}", markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slipway-simulate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    traffic = parser.add_argument_group("traffic")
    traffic.add_argument("--trace", type=Path, help="CSV file of requests; a made-up day where absent")
    traffic.add_argument(
        "--prometheus",
        metavar="URL",
        help="take the recorded requests of the object in -f from there",
    )
    traffic.add_argument("--token-file", type=Path, help="bearer token for that Prometheus")
    traffic.add_argument("--since", type=positive, default=24.0, metavar="HOURS", help="how far back (24)")
    traffic.add_argument("--rate", type=positive, default=1.0, help="requests of the trace, times this (1)")
    traffic.add_argument("--hours", type=positive, default=6.0, help="length of the made-up day (6)")
    traffic.add_argument("--mean-rate", type=positive, default=1.3, help="its requests a second (1.3)")
    traffic.add_argument("--seed", type=int, default=1, help="of all that is random (1)")
    bounds = parser.add_argument_group("the deployment")
    bounds.add_argument(
        "-f",
        "--file",
        type=Path,
        help="an LLMDeployment: its autoscaling, its SLO, what its status knows of a replica",
    )
    bounds.add_argument("--min", type=int, default=1, help="autoscaling.minReplicas (1)")
    bounds.add_argument("--max", type=int, default=24, help="autoscaling.maxReplicas (24)")
    bounds.add_argument("--spare", type=int, default=0, help="autoscaling.spareReplicas (0)")
    bounds.add_argument(
        "--start", type=int, help="replicas that serve at the beginning (what its first ten minutes need)"
    )
    bounds.add_argument("--slo-ttft", type=positive, default=2.0, metavar="S", help="time to first token (2)")
    bounds.add_argument(
        "--slo-tpot", type=positive, default=0.15, metavar="S", help="per output token (0.15)"
    )
    replica_flags(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--compare", default=",".join(CHOICES), help=f"policies, of {', '.join(CHOICES)} (all)")
    out.add_argument("--plot", "--svg", type=picture, metavar="FILE", help="write a plot, .svg or .png")
    out.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser


def _trace(options: argparse.Namespace) -> list[Arrival]:
    if options.trace is None:
        trace = burst_day(options.seed, options.hours, options.mean_rate)
    else:
        trace = read(options.trace)
    return trace if options.rate == 1.0 else stretched(trace, options.rate, options.seed)


def _runs(options: argparse.Namespace, asked: _Asked) -> tuple[list[tuple[str, Outcome]], list[str]]:
    status = asked.deployment.status if asked.deployment is not None else {}
    setting, assumed = setting_of(status, vars(options))
    remarks = assumed if asked.deployment is not None else []
    most = setting.speed.max_num_seqs
    chosen = [made for name in options.compare.split(",") for made in _policies(options, name.strip(), most)]
    if asked.deployment is not None:
        own, more = policy_of(asked.deployment.spec, asked.deployment.key.name, asked.begin, most)
        remarks += more
        chosen = [own if isinstance(policy, policies.Ours) else policy for policy in chosen]
    bears = setting.speed.bears(asked.slo.tpot)
    first = needed(asked.trace, setting.speed, bears) if options.start is None else options.start
    runs = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for policy in progress.track(chosen, description="simulating"):
            runs.append((policy.name, run(asked.trace, policy, setting, first=first)))
    return runs, remarks


def _policies(options: argparse.Namespace, name: str, most: int) -> list[Policy]:
    low, high = max(1, options.min), options.max
    bounds = Bounds(options.min, high, options.spare, max_num_seqs=most, tpot=options.slo_tpot)
    makers: dict[str, Callable[[], Policy]] = {
        "slipway": lambda: policies.Ours(bounds),
        "static": lambda: policies.Static(max(low, round(0.4 * high))),
        "hpa": lambda: policies.Hpa("HPA waiting/5", (policies.waiting(5),), low, high),
        "keda": lambda: policies.Hpa("KEDA", (policies.waiting(5), policies.cache(0.6)), low, high),
        "in-flight": lambda: policies.Hpa("HPA in flight/22", (policies.concurrent(22),), low, high),
        "knative": lambda: policies.Knative(20, low, high),
    }
    if name not in makers:
        raise SystemExit(f"slipway-simulate: {name!r} is no policy; write some of {', '.join(CHOICES)}.")
    return [makers[name]()]


if __name__ == "__main__":
    sys.exit(main())
