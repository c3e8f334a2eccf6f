"""YAML from a user's file: every document with the place where it stands, so that an error can name it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from slipway_api import names
from slipway_operator.kinds import Object
from slipway_operator.plugin.errors import UsageError

MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Document:
    """One object of a file; `place` is the file and the document's number."""

    place: str
    body: Object


def read(path: str) -> list[Document]:
    """Return the documents of a file, of all YAML files of a folder, or of standard input (`-`)."""
    if path == "-":
        return list(_parse("standard input", sys.stdin.read(MAX_BYTES + 1)))
    at = Path(path)
    files = sorted(p for p in at.iterdir() if p.suffix in (".yaml", ".yml")) if at.is_dir() else [at]
    return [document for file in files for document in _parse(str(file), _text(file))]


def deployments(path: str) -> list[Document]:
    """Return the LLMDeployments of `path`. Raises UsageError where there is none."""
    found = [document for document in read(path) if document.body.get("kind") == names.KIND]
    if not found:
        raise UsageError(f"{path} holds no {names.KIND}; write one, docs/quickstart.md shows how.")
    return found


def _text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no UTF-8 text; is it the right file?") from error


def _parse(place: str, text: str) -> Iterator[Document]:
    if len(text) > MAX_BYTES:
        raise UsageError(f"{place} is larger than {MAX_BYTES >> 20} MiB; split it.")
    try:
        for number, body in enumerate(yaml.safe_load_all(text), start=1):
            if body is None:
                continue
            if not isinstance(body, dict):
                raise UsageError(f"{place}, document {number}, is no object but {type(body).__name__}.")
            yield Document(f"{place}, document {number}", body)
    except yaml.YAMLError as error:
        raise UsageError(f"{place} is no valid YAML: {error}") from error
