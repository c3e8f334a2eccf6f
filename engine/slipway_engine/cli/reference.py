"""The flags of `serve` as a Markdown table, from the parser itself: `python -m slipway_engine.cli.reference`.

With a file's path as its argument, the table in that file, between two comments, is brought up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from slipway_engine.cli.main import _parser

BEGIN, END = "<!-- flags: begin -->\n", "<!-- flags: end -->\n"


def flags_table() -> str:
    """Return the table, one section a group of flags."""
    return "\n".join(_sections(_serve()))


def with_table(page: str) -> str:
    """Return the page with its table as it must be. Raises ValueError where it has no place for one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page has no lines {BEGIN.strip()} and {END.strip()}.")
    return before + begin + flags_table() + end + after


def _serve() -> argparse.ArgumentParser:
    for action in _parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen: argparse.ArgumentParser = action.choices["serve"]
            return chosen
    raise AssertionError("there are no commands")


def _sections(of: argparse.ArgumentParser) -> Iterator[str]:
    for group in of._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            title = "model" if group.title == "positional arguments" else group.title
            yield f"| {title} | |\n|---|---|"
            yield from map(_row, actions)
            yield ""


def _row(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar}`"
    takes = "" if action.nargs == 0 or not action.option_strings else _takes(action)
    text = (action.help or "").replace("|", "\\|")
    return f"| {names}{takes} | {text} |"


def _takes(action: argparse.Action) -> str:
    if action.choices is not None:
        return " " + " \\| ".join(f"`{choice}`" for choice in action.choices)
    shown = str(action.metavar or action.dest.upper()).replace("|", " \\| ")
    return f" {shown}{' ...' if action.nargs == '+' else ''}"


def main(argv: list[str]) -> int:
    """Print the table, or write it into a page."""
    if not argv:
        sys.stdout.write(flags_table())
        return 0
    page = Path(argv[0])
    page.write_text(with_table(page.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
