"""A comparison on the screen: the figures of each policy, and a line of blocks each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from rich.console import Console
from rich.table import Table

from slipway_operator.simulate.plot import sparkline
from slipway_operator.simulate.report import Report, Slo
from slipway_operator.simulate.world import Outcome

FILE_WIDTH: Final = 120


def show(reports: Sequence[Report], runs: Sequence[tuple[str, Outcome]], slo: Slo) -> None:
    """Print the table and the lines."""
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
