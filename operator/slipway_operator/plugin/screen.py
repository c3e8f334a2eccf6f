"""Answers on the screen: text with colours where a person looks, JSON or YAML where a machine reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

FORMATS: Final = ("text", "json", "yaml")
FILE_WIDTH: Final = 160
_COLOURS: Final = {True: "green", False: "red", None: "yellow"}


def console() -> Console:
    """Return the console of standard output; rich looks at NO_COLOR and at whether it is a terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=FILE_WIDTH)


def machine(value: Any, form: str) -> None:
    """Print a value as JSON or YAML; a list of objects becomes a YAML stream."""
    if form == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
    elif isinstance(value, list):
        print(dump(value), end="")
    else:
        print(dump([value]), end="")


def dump(documents: Iterable[Any]) -> str:
    """Return YAML documents in the order of their keys as they were made."""
    texts = [yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=110) for body in documents]
    return "---\n".join(texts)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a plain table."""
    made = Table(title=title or None, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, no_wrap=index == 0)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def mark(good: bool | None) -> Text:
    """Return a sign with its colour: well, ill, or on the way."""
    sign = {True: "✔", False: "✘", None: "…"}[good]
    return Text(sign, style=_COLOURS[good])


def line(good: bool | None, *parts: str) -> Text:
    """Return a marked line."""
    return Text.assemble(mark(good), " ", " ".join(part for part in parts if part))


def errors() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def tell(text: str) -> None:
    """Say something beside the answer, on standard error."""
    errors().print(Text(text, style="dim"))
