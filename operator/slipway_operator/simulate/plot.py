"""Pictures of a run: lines of blocks for the terminal, an SVG file for a page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

from slipway_operator.simulate.world import Outcome

BLOCKS: Final = "▁▂▃▄▅▆▇█"
COLOURS: Final = ("#1668dc", "#d4380d", "#389e0d", "#722ed1", "#d48806", "#08979c", "#595959")
WIDTH, HEIGHT, MARGIN, PANEL = 960, 260, 46, 200


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Return values as one line of blocks, each the largest of its share of them."""
    cells = buckets(values, width)
    top = max(cells, default=0.0) or 1.0
    return "".join(
        BLOCKS[min(len(BLOCKS) - 1, int(value / top * (len(BLOCKS) - 1) + 0.5))] for value in cells
    )


def buckets(values: Sequence[float], count: int) -> list[float]:
    """Return at most `count` values, each the largest of its share."""
    if len(values) <= count:
        return list(values)
    edges = [len(values) * index // count for index in range(count + 1)]
    return [max(values[low:high]) for low, high in pairwise(edges)]


def svg(runs: Sequence[tuple[str, Outcome]]) -> str:
    """Return two panels over time: ready replicas, and requests in the system, a line each policy."""
    drawn = "".join(_panel(title, lines, number) for number, (title, lines) in enumerate(panels(runs)))
    end = max((run.timeline[-1][0] for _, run in runs if run.timeline), default=0.0)
    legend = "".join(
        f'<text x="{MARGIN + 10 + 130 * index}" y="{2 * HEIGHT + 20}" fill="{COLOURS[index % len(COLOURS)]}">'
        f"{escape(name)}</text>"
        for index, (name, _) in enumerate(runs)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {2 * HEIGHT + 40}" '
        'font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{drawn}'
        f'<text x="{WIDTH - MARGIN}" y="{2 * HEIGHT + 20}" text-anchor="end">{end / 3600:.1f} h</text>'
        f"{legend}</svg>\n"
    )


def panels(runs: Sequence[tuple[str, Outcome]]) -> list[tuple[str, list[list[float]]]]:
    """Return what is drawn: titles, each with the values of each policy over time."""
    return [
        ("ready replicas", [[row[2] for row in run.timeline] for _, run in runs]),
        ("requests in the system", [[row[3] for row in run.timeline] for _, run in runs]),
    ]


def _panel(title: str, lines: Sequence[Sequence[float]], number: int) -> str:
    top = max((max(values, default=0) for values in lines), default=0) or 1
    base = HEIGHT * number + MARGIN / 2 + PANEL
    drawn = "".join(
        f'<polyline fill="none" stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="1.5" '
        f'points="{_points(values, top, base)}"/>'
        for index, values in enumerate(lines)
    )
    axis = (
        f'<line x1="{MARGIN}" y1="{base}" x2="{WIDTH - MARGIN}" y2="{base}" stroke="#999"/>'
        f'<text x="{MARGIN - 6}" y="{base}" text-anchor="end">0</text>'
        f'<text x="{MARGIN - 6}" y="{base - PANEL + 10}" text-anchor="end">{top:g}</text>'
        f'<text x="{MARGIN}" y="{base - PANEL - 6}" font-weight="bold">{escape(title)}</text>'
    )
    return axis + drawn


def _points(values: Sequence[float], top: float, base: float) -> str:
    cells = buckets(values, 600)
    step = (WIDTH - 2 * MARGIN) / max(1, len(cells) - 1)
    return " ".join(
        f"{MARGIN + index * step:.1f},{base - PANEL * value / top:.1f}" for index, value in enumerate(cells)
    )
