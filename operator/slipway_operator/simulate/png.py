"""The plot as a PNG, with nothing but zlib: palette pixels, straight lines, letters of 3 x 5 dots.

The file's form is the W3C's "Portable Network Graphics": signature, IHDR, PLTE, IDAT, IEND.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from slipway_operator.simulate.plot import COLOURS, HEIGHT, MARGIN, PANEL, WIDTH, buckets, panels
from slipway_operator.simulate.world import Outcome

WHITE, BLACK, GREY, FIRST = 0, 1, 2, 3
DOT: Final = 2
"""Pixels of a letter's dot, each way."""

# Five rows a letter, each of three dots as an octal digit: 7 is all three, 4 the left one.
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.,/:-%"
_ROWS: Final = (
    "7555726227717477171755711747177475771222757577571725755656563444365556"
    "7464774644345535575572227111525565544447577556555525552656442556365655"
    "3421672222555575555255775552555522271247000020002411244020200070051245"
)
_GLYPHS: Final = {letter: _ROWS[5 * at : 5 * at + 5] for at, letter in enumerate(_LETTERS)}


class Canvas:
    """Pixels, each a colour's place in the palette."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rows = [bytearray(width) for _ in range(height)]

    def dot(self, x: int, y: int, colour: int, size: int = 1) -> None:
        """Fill a square; what lies outside is left out."""
        for row in self._rows[max(0, y) : max(0, y + size)]:
            for column in range(max(0, x), min(self.width, x + size)):
                row[column] = colour

    def line(self, points: Sequence[tuple[float, float]], colour: int, size: int = 2) -> None:
        """Draw through points, a step for every pixel of the longer way."""
        for (x, y), (to_x, to_y) in pairwise(points):
            steps = max(1, int(max(abs(to_x - x), abs(to_y - y))))
            for step in range(steps + 1):
                share = step / steps
                self.dot(round(x + (to_x - x) * share), round(y + (to_y - y) * share), colour, size)

    def text(self, x: int, y: int, words: str, colour: int) -> None:
        """Write in capitals; what has no letter here leaves a gap."""
        for place, letter in enumerate(words.upper()):
            for row, bits in enumerate(_GLYPHS.get(letter, "")):
                for column in range(3):
                    if int(bits) & (4 >> column):
                        self.dot(x + DOT * (4 * place + column), y + DOT * row, colour, DOT)

    def png(self, palette: Sequence[str]) -> bytes:
        """Return the file; colours are written `#rrggbb`."""
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 3, 0, 0, 0)
        colours = b"".join(bytes.fromhex(one.lstrip("#")) for one in palette)
        pixels = zlib.compress(b"".join(b"\0" + row for row in self._rows), 9)
        parts = ((b"IHDR", header), (b"PLTE", colours), (b"IDAT", pixels), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def png(runs: Sequence[tuple[str, Outcome]]) -> bytes:
    """Return the picture that `plot.svg` draws."""
    canvas = Canvas(WIDTH, 2 * HEIGHT + 40)
    for number, (title, lines) in enumerate(panels(runs)):
        top = max((max(values, default=0.0) for values in lines), default=0.0) or 1.0
        base = HEIGHT * number + MARGIN // 2 + PANEL
        canvas.line([(MARGIN, base), (WIDTH - MARGIN, base)], GREY, 1)
        canvas.text(MARGIN, base - PANEL - 14, title, BLACK)
        canvas.text(2, base - PANEL, f"{top:g}", BLACK)
        for index, values in enumerate(lines):
            cells = buckets(values, WIDTH - 2 * MARGIN)
            step = (WIDTH - 2 * MARGIN) / max(1, len(cells) - 1)
            points = [(MARGIN + place * step, base - PANEL * one / top) for place, one in enumerate(cells)]
            canvas.line(points, FIRST + index % len(COLOURS))
    for index, (name, _) in enumerate(runs):
        canvas.text(MARGIN + 140 * index, 2 * HEIGHT + 10, name[:16], FIRST + index % len(COLOURS))
    end = max((run.timeline[-1][0] for _, run in runs if run.timeline), default=0.0)
    canvas.text(WIDTH - 2 * MARGIN, 2 * HEIGHT - 4, f"{end / 3600:.1f} h", BLACK)
    return canvas.png(("#ffffff", "#000000", "#999999", *COLOURS))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
