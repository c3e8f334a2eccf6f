"""What the status already says of a revision's measured memory, and which pod could say it."""

from __future__ import annotations

from pydantic import ValidationError

from slipway_api.v1alpha1 import MemoryStatus
from slipway_operator.explain.pods import is_leaving, is_ready
from slipway_operator.kinds import Object
from slipway_operator.plan import Plan, World
from slipway_operator.plan.revision import LABEL_REVISION


def told_before(parent: Object, revision: str) -> MemoryStatus | None:
    """Return what the status says was measured of this very revision; it is not asked for again."""
    status = parent.get("status") or {}
    measured = (status.get("plan") or {}).get("measured")
    if measured is None or status.get("revision") != revision:
        return None
    try:
        return MemoryStatus.model_validate(measured)
    except ValidationError:
        return None


def who_knows(world: World, plan: Plan) -> Object | None:
    """Return a serving pod of the newest revision; None where there is none, or its engine is not ours."""
    if not plan.values.profile.ours:
        return None
    revision = plan.course.target
    return next(
        (pod for pod in world.pods if _of(pod, revision) and is_ready(pod) and not is_leaving(pod)), None
    )


def _of(pod: Object, revision: str) -> bool:
    return (pod["metadata"].get("labels") or {}).get(LABEL_REVISION) == revision
