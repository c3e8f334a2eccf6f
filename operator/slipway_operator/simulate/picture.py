"""A plot in a file: the ending of its name says which kind."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from slipway_operator.simulate.plot import svg
from slipway_operator.simulate.png import png
from slipway_operator.simulate.world import Outcome


def picture(text: str) -> Path:
    """Return the path of a plot, for argparse."""
    path = Path(text)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} is no picture's name; end it in .svg or .png")
    return path


def draw(runs: Sequence[tuple[str, Outcome]], path: Path) -> None:
    """Write the plot. Raises OSError."""
    path.write_bytes(png(runs) if path.suffix == ".png" else svg(runs).encode())
