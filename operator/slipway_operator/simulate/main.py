"""The command line of `slipway-simulate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from slipway_operator.autoscale.policy import Bounds
from slipway_operator.simulate import policies
from slipway_operator.simulate.plot import sparkline, svg
from slipway_operator.simulate.replica import Speed, needed
from slipway_operator.simulate.report import Report, Slo, report
from slipway_operator.simulate.trace import Arrival, TraceError, burst_day, read, stretched
from slipway_operator.simulate.world import Outcome, Policy, Setting, run

_DESCRIPTION = """Play traffic against Slipway's autoscaling policy, and against others for comparison.

The policy is the operator's own module; the replicas are simulated (continuous batching in fluid form)
with the speed that the flags give: take them from `kubectl slipway bench`. Without --trace a day of waves
and bursts is made up."""

_EPILOG = """A trace is CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens, such as Azure's public
LLM inference traces; those are not shipped, download them from the AzurePublicDataset repository."""

FILE_WIDTH: Final = 120
CHOICES: Final = ("slipway", "static", "hpa", "keda", "knative", "in-flight")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        trace = _trace(options)
    except TraceError as error:
        Console(stderr=True, highlight=False).print(f"slipway-simulate: {error}")
        return 2
    runs = _runs(options, trace)
    slo = Slo(options.slo_ttft, options.slo_tpot)
    reports = [report(name, outcome, slo) for name, outcome in runs]
    if options.svg:
        options.svg.write_text(svg(runs), encoding="utf-8")
    if options.output == "json":
        print(json.dumps([asdict(one) for one in reports], indent=2))
    else:
        _print(reports, runs, slo)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slipway-simulate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    traffic = parser.add_argument_group("traffic")
    traffic.add_argument("--trace", type=Path, help="CSV file of requests; a made-up day where absent")
    traffic.add_argument("--rate", type=_positive, default=1.0, help="requests of the trace, times this (1)")
    traffic.add_argument("--hours", type=_positive, default=6.0, help="length of the made-up day (6)")
    traffic.add_argument("--mean-rate", type=_positive, default=1.3, help="its requests a second (1.3)")
    traffic.add_argument("--seed", type=int, default=1, help="of all that is random (1)")
    bounds = parser.add_argument_group("the deployment")
    bounds.add_argument("--min", type=int, default=1, help="autoscaling.minReplicas (1)")
    bounds.add_argument("--max", type=int, default=24, help="autoscaling.maxReplicas (24)")
    bounds.add_argument("--spare", type=int, default=0, help="autoscaling.spareReplicas (0)")
    bounds.add_argument(
        "--start", type=int, help="replicas that serve at the beginning (what its first ten minutes need)"
    )
    bounds.add_argument(
        "--slo-ttft", type=_positive, default=2.0, metavar="S", help="time to first token (2)"
    )
    bounds.add_argument(
        "--slo-tpot", type=_positive, default=0.15, metavar="S", help="per output token (0.15)"
    )
    replica = parser.add_argument_group("one replica")
    replica.add_argument("--start-seconds", type=_positive, default=120.0, help="creation to ready (120)")
    replica.add_argument("--prefill", type=_positive, default=8000.0, help="prompt tokens a second (8000)")
    replica.add_argument(
        "--step-base", type=_positive, default=0.03, help="seconds a decode step, alone (0.03)"
    )
    replica.add_argument(
        "--step-each", type=_positive, default=0.003, help="and for each request in it (0.003)"
    )
    replica.add_argument("--kv-tokens", type=int, default=120_000, help="tokens in the KV cache (120000)")
    replica.add_argument("--max-num-seqs", type=int, default=64, help="requests in one step (64)")
    out = parser.add_argument_group("output")
    out.add_argument("--compare", default=",".join(CHOICES), help=f"policies, of {', '.join(CHOICES)} (all)")
    out.add_argument("--svg", type=Path, help="write a plot")
    out.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser


def _trace(options: argparse.Namespace) -> list[Arrival]:
    if options.trace is None:
        trace = burst_day(options.seed, options.hours, options.mean_rate)
    else:
        trace = read(options.trace)
    return trace if options.rate == 1.0 else stretched(trace, options.rate, options.seed)


def _runs(options: argparse.Namespace, trace: Sequence[Arrival]) -> list[tuple[str, Outcome]]:
    speed = Speed(
        options.step_base, options.step_each, options.prefill, options.kv_tokens, options.max_num_seqs
    )
    setting = Setting(speed, options.start_seconds)
    bears = speed.bears(options.slo_tpot)
    first = needed(trace, speed, bears) if options.start is None else options.start
    chosen = [made for name in options.compare.split(",") for made in _policies(options, name.strip())]
    runs = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for policy in progress.track(chosen, description="simulating"):
            runs.append((policy.name, run(trace, policy, setting, first=first)))
    return runs


def _policies(options: argparse.Namespace, name: str) -> list[Policy]:
    low, high = max(1, options.min), options.max
    bounds = Bounds(
        options.min, high, options.spare, max_num_seqs=options.max_num_seqs, tpot=options.slo_tpot
    )
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


def _print(reports: Sequence[Report], runs: Sequence[tuple[str, Outcome]], slo: Slo) -> None:
    title = f"{reports[0].requests} requests; SLO: first token {slo.ttft:g} s, then {slo.tpot:g} s each"
    table = Table(title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for column in (
        "POLICY",
        "IN SLO %",
        "TTFT P50 S",
        "P95",
        "P99",
        "REPLICA H",
        "STARTS",
        "REVERSALS",
        "MOST",
    ):
        table.add_column(column, justify="left" if column == "POLICY" else "right")
    for one in reports:
        table.add_row(*(str(value) for key, value in asdict(one).items() if key != "requests"))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(table)
    console.print("\nready replicas over time")
    for name, outcome in runs:
        console.print(f"  {name:22} {sparkline([row[2] for row in outcome.timeline])}")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
