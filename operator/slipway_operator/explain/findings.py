"""A finding: one thing that keeps replicas from serving; its reason, its sentence, the next command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from slipway_api.conditions import Reason
from slipway_operator.explain.redact import redact

MAX_DETAIL: Final = 600

# Nothing changes until somebody edits the object: waiting or trying again does not help.
TERMINAL: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.UNKNOWN_ACCELERATOR,
        Reason.MODEL_UNSUPPORTED,
        Reason.MODEL_CORRUPT,
        Reason.DOES_NOT_FIT,
        Reason.INVALID_ARGUMENT,
        Reason.ROLLOUT_FAILED,
    }
)
# What the engine reports about the model itself.
ABOUT_MODEL: Final = frozenset(
    {
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_ACCESS_DENIED,
        Reason.MODEL_UNSUPPORTED,
        Reason.MODEL_CORRUPT,
        Reason.MODEL_CHANGED,
        Reason.MODEL_UNSIGNED,
        Reason.SIGNATURE_INVALID,
        Reason.DOWNLOAD_FAILED,
        Reason.DOES_NOT_FIT,
    }
)


class Weight(IntEnum):
    """How much a finding matters beside others."""

    ON_THE_WAY = 1
    FAILING = 2
    TERMINAL = 3


@dataclass(frozen=True)
class Finding:
    """One thing that keeps replicas from serving. `command` is what to run next, or empty."""

    reason: Reason
    message: str
    command: str = ""
    on_the_way: bool = False

    @property
    def weight(self) -> Weight:
        """Return how much this matters."""
        if self.on_the_way:
            return Weight.ON_THE_WAY
        return Weight.TERMINAL if self.reason in TERMINAL else Weight.FAILING


def worst(findings: Iterable[Finding]) -> Finding | None:
    """Return the finding that matters most; among equals the first."""
    return max(findings, key=lambda finding: finding.weight, default=None)


def clean(text: str) -> str:
    """Return text from outside as one bounded line without control characters, a final full stop, and what
    looks like a credential."""
    line = redact(re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip().removesuffix("."))
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"
