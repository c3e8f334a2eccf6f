"""Commands that run at the same time share one terminal without overwriting each other."""

import io
import os

import pytest
from e2e import side_by_side
from e2e.side_by_side import Board, CommandFailed, shortened


def last_screen(text: str) -> list[str]:
    """What a terminal shows after this text: lines that are rewritten count once."""
    return [line.rsplit("\r\033[K", 1)[-1] for line in text.split("\n")]


def test_finished_lines_stay_and_running_ones_share_the_last() -> None:
    stream = io.StringIO()
    board = Board(stream)
    board.hear(0, "  .. Build the programs: 3 of 9 10 s")
    board.hear(1, "  .. Build the image 1.0 s")
    board.hear(1, "  ok Build the image 2.0 s")
    board.hear(0, "  .. Build the programs: 4 of 9 11 s")
    assert last_screen(stream.getvalue()) == [
        "  ok Build the image 2.0 s",
        "  .. Build the programs: 4 of 9 11 s",
    ]


@pytest.mark.parametrize("columns", ["40", "100"])
def test_the_last_line_fits_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", columns)
    board = Board(io.StringIO())
    for who in range(2):
        board.hear(who, f"  .. {'x' * 100}")
    assert len(board.last_line()) < int(columns)


def test_what_is_cut_is_the_middle() -> None:
    assert shortened("Build Kubernetes, etcd: 3 of 9 packages 12 s", 30) == "Build Kub…3 of 9 packages 12 s"
    assert shortened("Build it 12 s", 30) == "Build it 12 s"


def test_each_series_returns_what_its_commands_printed() -> None:
    first, second = side_by_side.run([("--help",), ("up", "--help")], [("load", "--help")])
    assert [text.partition("\n")[0] for text in first] == [
        "usage: python3 -m e2e.cluster [-h] COMMAND ...",
        "usage: python3 -m e2e.cluster up [-h]",
    ]
    assert second[0].startswith("usage: python3 -m e2e.cluster load")


def test_the_first_failure_is_named() -> None:
    with pytest.raises(CommandFailed, match=r"`python3 -m e2e\.cluster nonsense` failed"):
        side_by_side.run([("--help",)], [("nonsense",), ("--help",)])
