"""What is known of a model before it is fetched, from where the user stands: a file of facts, or our engine.

`slipway-engine inspect` reads headers alone, with the user's own token (HF_TOKEN) and network. Nothing of a
model is ever executed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from slipway_api.facts import FactsError
from slipway_api.inspection import Inspection, decode
from slipway_api.sources import parse_source
from slipway_operator.plugin.errors import PluginError, UsageError

PROGRAM: Final = "slipway-engine"
TIMEOUT: Final = 120.0
READABLE: Final = frozenset({"hf", "https", "s3", "gs", "oci"})


def from_file(path: str) -> Inspection:
    """Return the facts in a file that `slipway-engine inspect` wrote."""
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except FactsError as error:
        raise UsageError(f"{path} holds no facts of a model: {error}") from error


def inspect(source: str, revision: str | None) -> tuple[Inspection | None, str]:
    """Return what the source says of itself, or None and why it was not asked. Raises PluginError."""
    scheme = parse_source(source).scheme
    if scheme not in READABLE:
        return None, f"{scheme}:// is only seen inside the cluster; --facts FILE brings what is known"
    program = shutil.which(PROGRAM)
    if program is None:
        return (
            None,
            f"{PROGRAM} is not on the PATH, which reads a model's headers: pip install slipway[engine]",
        )
    command = [program, "inspect", source, *([f"--revision={revision}"] if revision else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise PluginError(f"{source} did not answer within {TIMEOUT:.0f} s.") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PluginError(said[-1] if said else f"{PROGRAM} inspect ended with {done.returncode}.")
    try:
        return decode(done.stdout), ""
    except FactsError as error:
        raise PluginError(f"{PROGRAM} inspect answered with something else: {error}") from error
