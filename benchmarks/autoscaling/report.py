"""What runs say: a row of figures each, and a picture of load, replicas, queue and first tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

SLO_SECONDS = 2.0
COLOURS = {"slipway": "#1668dc", "hpa": "#d4380d"}
NAMES = {"slipway": "Slipway", "hpa": "HPA on the queue's depth"}
WIDTH, LEFT, RIGHT, PANEL, GAP = 960, 56, 20, 130, 44

Line = Sequence[tuple[float, float]]


def figures(run: dict[str, Any], until: float = math.inf) -> dict[str, float]:
    """Return a run's figures up to a second of it: shares in percent, times in seconds."""
    requests = [one for one in run["requests"] if one["at"] < until]
    times = sorted(math.inf if one["error"] else one["ttft"] for one in requests)
    steps = [(row[0], row[1]) for row in run["replicas"]]
    end = min(until, sum(seconds for seconds, _ in run["phases"]))
    held = [(at, later, count) for (at, count), (later, _) in pairwise(steps) if 0 <= at < end]
    changes = [b - a for (_, a), (at, b) in pairwise(steps) if a != b and at < end]
    return {
        "requests": len(requests),
        "failed": sum(1 for one in requests if one["error"]),
        "slo_percent": 100 * sum(1 for time in times if time <= SLO_SECONDS) / len(times),
        "ttft_p50": times[len(times) // 2],
        "ttft_p95": times[int(len(times) * 0.95)],
        "ttft_p99": times[int(len(times) * 0.99)],
        "queue_most": max((count for _, count in run["queue"]), default=0.0),
        "replica_seconds": sum((later - at) * count for at, later, count in held),
        "starts": sum(change for change in changes if change > 0),
        "turns": sum(1 for a, b in pairwise(changes) if (a > 0) != (b > 0)),
    }


def table(runs: Sequence[dict[str, Any]], until: float = math.inf) -> str:
    """Return the figures as lines of text."""
    rows = [(NAMES[run["policy"]], figures(run, until)) for run in runs]
    names = list(rows[0][1])
    lines = ["".ljust(26) + "".join(name.rjust(17) for name in names)]
    lines += [name.ljust(26) + "".join(f"{values[n]:.4g}".rjust(17) for n in names) for name, values in rows]
    return "\n".join(lines)


def svg(runs: Sequence[dict[str, Any]]) -> str:
    """Return the picture."""
    end = sum(seconds for seconds, _ in runs[0]["phases"])
    load = [("load", "#595959", _load(runs[0]["phases"]))]
    panels = [
        ("requests a second that are sent", load, None),
        (
            "replicas asked for (line) and ready (dots)",
            _lines(runs, lambda run: _column(run["replicas"], 1)),
            None,
        ),
        ("requests that wait", _lines(runs, lambda run: [tuple(row) for row in run["queue"]]), None),
        ("time to the first token, s: each request, by when it was sent", [], _first_tokens(runs)),
    ]
    drawn = []
    for number, (title, lines, dots) in enumerate(panels):
        ready = {run["policy"]: _column(run["replicas"], 2) for run in runs} if number == 1 else dots or {}
        drawn.append(_panel(number, title, lines, ready, end))
    height = len(panels) * (PANEL + GAP) + 40
    legend = "".join(
        f'<text x="{LEFT + 220 * index}" y="{height - 8}" fill="{COLOURS[run["policy"]]}">'
        f"{escape(NAMES[run['policy']])}</text>"
        for index, run in enumerate(runs)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(drawn)}{legend}</svg>\n"
    )


def _lines(runs: Sequence[dict[str, Any]], of: Any) -> list[tuple[str, str, Line]]:
    return [(run["policy"], COLOURS[run["policy"]], of(run)) for run in runs]


def _column(rows: Sequence[Sequence[float]], column: int) -> Line:
    return [(row[0], row[column]) for row in rows if row[0] >= 0]


def _load(phases: Sequence[Sequence[float]]) -> Line:
    found, at = [], 0.0
    for seconds, rate in phases:
        found += [(at, rate), (at + seconds, rate)]
        at += seconds
    return found


def _first_tokens(runs: Sequence[dict[str, Any]]) -> dict[str, Line]:
    return {
        run["policy"]: [(one["at"], one["ttft"]) for one in run["requests"] if one["ttft"] is not None]
        for run in runs
    }


def _panel(
    number: int, title: str, lines: Sequence[tuple[str, str, Line]], dots: dict[str, Line], end: float
) -> str:
    values = [value for _, _, line in lines for _, value in line]
    values += [value for line in dots.values() for _, value in line]
    top, base = max(values, default=0) or 1, (number + 1) * (PANEL + GAP)

    def place(at: float, value: float) -> tuple[float, float]:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(at, end) / end, base - PANEL * value / top

    parts = [
        f'<text x="{LEFT}" y="{base - PANEL - 8}" font-weight="bold">{escape(title)}</text>',
        f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">0</text>',
        f'<text x="{LEFT - 6}" y="{base - PANEL + 8}" text-anchor="end">{top:.3g}</text>',
        *(
            f'<text x="{place(at, 0)[0]:.0f}" y="{base + 14}" text-anchor="middle" fill="#777">{at} s</text>'
            for at in range(0, int(end) + 1, 60)
        ),
    ]
    for _, colour, line in lines:
        points = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in _steps(line))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{points}"/>')
    for policy, line in dots.items():
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.6" fill="{COLOURS[policy]}" fill-opacity="0.55"/>'
            for x, y in (place(*point) for point in line)
        ]
    return "".join(parts)


def _steps(line: Line) -> list[tuple[float, float]]:
    """Return a line that stays until it jumps."""
    found: list[tuple[float, float]] = []
    for at, value in line:
        if found:
            found.append((at, found[-1][1]))
        found.append((at, value))
    return found
