"""How a reconcile ended: what keeps a child from being as it was rendered, and when to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipway_api.conditions import Reason
from slipway_operator.kinds import Kind


@dataclass(frozen=True)
class ApplyProblem:
    """A child that could not be made as rendered. No watch tells when that is over, so it is tried again."""

    kind: Kind
    reason: Reason
    message: str
    name: str = ""
    """Name of the child."""


@dataclass(frozen=True)
class Result:
    """How a reconcile ended. `again` is in how many seconds time alone will have changed something."""

    problems: Sequence[ApplyProblem] = ()
    again: float | None = None
