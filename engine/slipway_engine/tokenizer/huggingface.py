"""A tokenizer from a directory in Hugging Face layout: `tokenizer.json` and what stands beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.tokenizer.tokenizer import SpecialTokens, Tokenizer

_MAX_FILE_BYTES = 256 * 1024 * 1024


def from_directory(directory: Path) -> Tokenizer:
    """Read the tokenizer of the model in this directory. Raises ModelUnsupported, ModelCorrupt."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise ModelUnsupported(
            f"{directory} has no tokenizer.json; convert its tokenizer with transformers "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...)) and serve the result."
        )
    config = _json(directory / "tokenizer_config.json")
    templates = _templates(directory, config)
    return Tokenizer(
        _backend(file),
        _special(config),
        chat_template=templates.get("default"),
        tool_template=templates.get("tool_use"),
    )


def _backend(file: Path) -> tokenizers.Tokenizer:
    text = _text(file)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ModelCorrupt(f"{file} is no tokenizer: {error}.") from error


def _special(config: dict[str, Any]) -> SpecialTokens:
    return SpecialTokens(*(_content(config.get(f"{name}_token")) for name in ("bos", "eos", "pad", "unk")))


def _content(token: object) -> str | None:
    """Return a special token's text; it is written as a text or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the chat templates by name; one by itself is the default."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return {"default": _text(file)}
    given = config.get("chat_template")
    several = given if isinstance(given, list) else [{"name": "default", "template": given}]
    named = {entry.get("name"): entry.get("template") for entry in several if isinstance(entry, dict)}
    return {name: text for name, text in named.items() if isinstance(name, str) and isinstance(text, str)}


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ModelCorrupt(f"{file} holds no JSON object.")
    return values


def _text(file: Path) -> str:
    if (size := file.stat().st_size) > _MAX_FILE_BYTES:
        raise ModelCorrupt(f"{file} has {size} bytes; a tokenizer's file has at most {_MAX_FILE_BYTES}.")
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelCorrupt(f"{file} is not UTF-8: {error}.") from error
