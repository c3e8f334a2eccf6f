"""`slipway-engine eval`: what a mode costs in quality, on a text, against the checkpoint in float32."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from slipway_engine.cli.flags import add_engine_flags, add_source_flags, engine_config, model_path, positive
from slipway_engine.errors import EngineError, InvalidArgument, ModelNotFound
from slipway_engine.sources.progress import waiting
from slipway_engine.tokenizer.load import load_tokenizer

if TYPE_CHECKING:
    from slipway_engine.core.scoring import Scorer
    from slipway_engine.evaluation import Quality

TEXT = Path(__file__).parents[3] / "benchmarks" / "engine" / "text" / "tom-sawyer.txt"
"""What is read without --text, where this is a checkout."""

_ABOUT = """\
Feed a text to the model through the engine's own step and cache, token after known token, and compare what
it predicts with a reference: perplexity, mean KL divergence (nats), how often the most likely token agrees.
The reference is the checkpoint's own values, unpacked, computed in float32 by torch with a float32 cache.

  slipway-engine eval ./model.gguf --quantization int8 --kv-cache-dtype int8
  slipway-engine eval ./model.Q4_0.gguf --against ./model-bf16    # a file against what it was made from"""


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "eval",
        help="measure what a mode costs in quality",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="GGUF file, model directory, or source")
    parser.add_argument(
        "--against",
        default="float32",
        metavar="MODEL",
        help="the reference: float32 is MODEL itself in float32 (default), else another model in float32",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 (default: the checkout's novel)")
    parser.add_argument(
        "--tokens", type=positive, metavar="N", help="of the text, from its start (default: all)"
    )
    parser.add_argument(
        "--context", type=positive, default=512, metavar="N", help="tokens of a window (default: 512)"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default: text")
    add_engine_flags(parser)
    add_source_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; print the figures."""
    model = model_path(arguments.model, arguments.revision, allow_http=arguments.allow_http)
    text, other = _read(arguments.text), model
    tokens, prefix = _tokens(model, text, arguments.tokens)
    if arguments.context < len(prefix) + 2:
        raise InvalidArgument(f"--context is {arguments.context}; write at least {len(prefix) + 2}.")
    if arguments.against != "float32":
        other = model_path(arguments.against, None, allow_http=arguments.allow_http)
        if _tokens(other, text, arguments.tokens) != (tokens, prefix):
            raise InvalidArgument(
                f"{arguments.against} cuts the text into other tokens than {arguments.model}, so their "
                "predictions cannot be compared; give --against a model with the same tokenizer."
            )
    with waiting("Loading the model"):
        from slipway_engine.core.scoring import Scorer, reference_of  # torch, which --help can do without

        config = engine_config(arguments, model)
        scorer = Scorer(config, arguments.context)
        reference = Scorer(reference_of(engine_config(arguments, other)), arguments.context)
    found = {
        "model": str(model),
        "against": f"{other}, {reference.mode}",
        "mode": scorer.mode,
        "context": arguments.context,
        **_figures(_compare(scorer, reference, _shown(tokens, arguments.context, prefix))),
    }
    print(json.dumps(found) if arguments.output == "json" else _table(found))
    return 0


def _shown(tokens: Sequence[int], context: int, prefix: Sequence[int]) -> Iterable[list[int]]:
    """Return the text's windows; how many are done is shown where somebody watches."""
    from slipway_engine.evaluation import windows

    console = Console(stderr=True)
    return track(
        list(windows(tokens, context, prefix)),
        "Scoring",
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _compare(scorer: Scorer, reference: Scorer, texts: Iterable[list[int]]) -> Quality:
    from slipway_engine.evaluation import Comparison, Yardstick

    if scorer.vocab_size != reference.vocab_size:
        raise InvalidArgument(
            f"the models' logits have {scorer.vocab_size} and {reference.vocab_size} columns, so they cannot "
            "be compared; give --against a model with the same vocabulary."
        )
    comparison = Comparison()
    for text in texts:
        at = 1
        for logits, theirs in zip(scorer.logits(text), reference.logits(text), strict=True):
            targets = text[at : at + len(logits)]  # the last position has none
            try:
                yardstick = Yardstick.of(theirs[: len(targets)])
                comparison.add(logits[: len(targets)], yardstick, targets)
            except ValueError as error:
                raise EngineError(f"Of these models' logits, {error}; try --dtype float32.") from error
            at += len(logits)
    return comparison.result()


def _figures(quality: Quality) -> dict[str, float]:
    figures = asdict(quality)
    return {name: float(f"{figures[name]:.6g}") if name != "tokens" else figures[name] for name in figures}


def _tokens(model: Path, text: str, count: int | None) -> tuple[list[int], list[int]]:
    """Return the text's ids, and those that the tokenizer puts before any text."""
    tokenizer = load_tokenizer(model)
    prefix = list(_common(tokenizer.encode(""), tokenizer.encode("a")))
    tokens = tokenizer.encode(text, add_special_tokens=False)[:count]
    if len(tokens) < 2:
        raise InvalidArgument(f"the text has {len(tokens)} tokens; at least 2 are needed.")
    return tokens, prefix


def _common(one: Sequence[int], other: Sequence[int]) -> Iterator[int]:
    for left, right in zip(one, other, strict=False):
        if left != right:
            return
        yield left


def _read(given: Path | None) -> str:
    path = given or TEXT
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 ({error.reason}); convert it first.") from error
    except OSError as error:
        if given is None:
            raise ModelNotFound("This is not a checkout, which brings a text along; give --text.") from error
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}; give --text a file.") from error


def _table(found: dict[str, Any]) -> str:
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {value}" for name, value in found.items())
