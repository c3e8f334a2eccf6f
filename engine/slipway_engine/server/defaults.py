"""What a model's authors recommend for sampling: `generation_config.json`, used where a request is silent."""

from __future__ import annotations

import json
from pathlib import Path

from slipway_engine.errors import InvalidArgument, ModelCorrupt, RequestError
from slipway_engine.sampling import SamplingParams

NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_FILE = "generation_config.json"
_MAX_BYTES = 1 << 20


def sampling_defaults(choice: str, model: Path) -> dict[str, float]:
    """Return the recommended values: `auto` takes the model's, `none` (or vLLM's word `vllm`) none.

    Any other choice is a directory. Raises InvalidArgument, ModelCorrupt.
    """
    if choice in ("none", "vllm"):
        return {}
    directory = model if choice == "auto" else Path(choice)
    file = directory / _FILE
    if not file.is_file():
        if choice == "auto":
            return {}
        raise InvalidArgument(
            f"--generation-config: {file} does not exist; give auto, none or a directory with it."
        )
    return _checked(file, _read(file))


def _read(file: Path) -> dict[str, object]:
    if (size := file.stat().st_size) > _MAX_BYTES:
        raise ModelCorrupt(f"{file} has {size} bytes; such a file has at most {_MAX_BYTES}.")
    try:
        values = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ModelCorrupt(f"{file} holds no JSON object.")
    return values


def _checked(file: Path, values: dict[str, object]) -> dict[str, float]:
    given = {
        name: value
        for name in NAMES
        if isinstance(value := values.get(name), (int, float)) and not isinstance(value, bool)
    }
    try:
        SamplingParams(**given)  # type: ignore[arg-type]
    except RequestError as error:
        raise ModelCorrupt(f"{file}: {error} Serve with --generation-config none.") from error
    return given
