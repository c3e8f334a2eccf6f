"""What an inspect Job reports of a model: the facts, and which files, at which commit, they are the facts of.

It travels in a container's termination message, so it has at most 4 KiB, and it may come from anybody.
"""

from __future__ import annotations

import json
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway_api.facts import MAX_ENCODED, FactsError, ModelFacts
from slipway_api.facts.model import MAX_BYTES

VERSION: Final = 1


class Inspection(BaseModel):
    """One model as its source describes it.

    `commit` is what a moving revision pointed at (hubs only), `digest` is over the names, sizes and digests
    of the files where the source tells them, `size` the bytes to fetch, `license` the source's own word.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    version: Annotated[int, Field(ge=1, le=1)] = VERSION
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")] | None = None
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    license: Annotated[str, Field(max_length=128, pattern=r"^[\x20-\x7e]+$")] | None = None
    size: Annotated[int, Field(ge=0, le=MAX_BYTES)] | None = None
    facts: ModelFacts


def encode(inspection: Inspection) -> str:
    """Return the inspection as JSON. Raises FactsError where it would exceed a termination message."""
    values = inspection.model_dump(exclude_none=True)
    values["facts"] = inspection.facts.model_dump(exclude_defaults=True)
    text = json.dumps(values, separators=(",", ":"), sort_keys=True)
    if len(text.encode()) > MAX_ENCODED:
        raise FactsError(f"what is known of the model takes {len(text)} bytes, more than {MAX_ENCODED}.")
    return text


def decode(text: str | bytes) -> Inspection:
    """Return the inspection in `text`. Raises FactsError."""
    if len(text) > MAX_ENCODED:
        raise FactsError(f"what is known of the model is longer than {MAX_ENCODED} bytes.")
    try:
        return Inspection.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise FactsError(f"what is known of the model cannot be read: {place}: {problem['msg']}.") from None
