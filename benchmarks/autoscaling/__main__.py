"""Load goes 1 -> 8 -> 0 -> 1 against real engine pods, once under Slipway's autoscaler and once under an HPA.

    python -m benchmarks.autoscaling                # both, then the figures and the picture
    python -m benchmarks.autoscaling run --policy hpa   # what was prepared is there
    python -m benchmarks.autoscaling report         # from the data of earlier runs
    python -m benchmarks.autoscaling prepare        # cluster, images, chart, Prometheus, adapter; no load

Needs the local cluster (or the one that SLIPWAY_E2E_CONTEXT names), which it starts. Engine pods have a
share of a CPU each, so that replicas count on a small machine. Both autoscalers read the same Prometheus:
Slipway's operator through its query API, the HPA through external metrics (`e2e/monitoring/adapter.py`);
its metric is the number of requests that wait in engines and gateway, which a plain HPA on the queue's
depth would use.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from benchmarks.autoscaling import report
from benchmarks.autoscaling.objects import ROOT
from benchmarks.autoscaling.run import POLICIES, Kubectl, Task, calibrate, clear, prepare, run, save

STEPS = ((40, 0.25), (110, 2.0), (100, 0.0), (30, 0.25))
"""Seconds, and the load in replicas."""
OUT = ROOT / "docs" / "benchmarks" / "autoscaling"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.autoscaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["all", "prepare", "run", "report"], default="all")
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--phases", help="SECONDS:REQUESTS_A_SECOND,...; default: by what a replica bears")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--cpu", default="300m", help="limit of each replica")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of data and picture")
    parser.add_argument(
        "--until", type=float, default=math.inf, metavar="SECONDS", help="figures of the report: up to then"
    )
    args = parser.parse_args()
    if args.command in ("all", "prepare"):
        prepare()
    if args.command in ("all", "run"):
        _measure(Kubectl(), args)
    if args.command in ("all", "report"):
        runs = [json.loads((args.out / f"{policy}.json").read_text()) for policy in args.policy]
        print(report.table(runs, args.until))
        picture = args.out / "timeline.svg"
        picture.write_text(report.svg(runs), encoding="utf-8")
        print(picture)


def _phases(kubectl: Kubectl, args: argparse.Namespace) -> str:
    """Return steps that need a quarter of a replica, two when full, none, and a quarter again."""
    bears = calibrate(kubectl, args.tokens, args.cpu)
    print(f"a replica finishes {bears:.2f} requests a second", flush=True)
    return ",".join(f"{seconds}:{share * bears:.3f}" for seconds, share in STEPS)


def _measure(kubectl: Kubectl, args: argparse.Namespace) -> None:
    for policy in args.policy:
        args.phases = args.phases or _phases(kubectl, args)
        task = Task(policy, args.phases, args.tokens, args.cpu, args.seed)
        result = run(kubectl, task)
        print(save(result, args.out))
        print(report.table([result]), flush=True)
    clear(kubectl)


if __name__ == "__main__":
    main()
