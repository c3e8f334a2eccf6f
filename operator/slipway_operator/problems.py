"""What keeps a child from being as it was rendered, handed from the writer to the status."""

from __future__ import annotations

from dataclasses import dataclass

from slipway_api.conditions import Reason
from slipway_operator.kinds import Kind


@dataclass(frozen=True)
class ApplyProblem:
    """A child that could not be made as rendered. No watch tells when that is over, so it is tried again."""

    kind: Kind
    reason: Reason
    message: str
