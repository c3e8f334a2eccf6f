"""Whether a new operator, or an edited class, may replace an object's pods now: by policy, window and turn.

Only where `rollout.upgradePolicy` (or the class's `upgrade.policy`) is `Automatic`. A class lets so many of
its objects roll at once, in the order of their names, and only within its window. An object waits until all
of its class have had the time to say that they are outdated, since the order is read off their statuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from slipway_api.v1alpha1 import LLMClassSpec, LLMDeploymentSpec, UpgradeSpec
from slipway_operator.explain.pods import condition_of
from slipway_operator.moments import opens_in, seconds_of
from slipway_operator.plan.world import World

SETTLE_SECONDS: Final = 60.0
TURN_SECONDS: Final = 60.0
"""How often an object looks whether its turn has come: no event tells."""


@dataclass(frozen=True)
class Permission:
    """Whether pods may be replaced now. `why` says what is waited for, `again` for how many seconds."""

    granted: bool = False
    why: str = ""
    again: float | None = None


def permission(spec: LLMDeploymentSpec, offer: LLMClassSpec | None, world: World, now: float) -> Permission:
    """Return whether an outdated object may be upgraded now."""
    upgrade = (offer and offer.upgrade) or UpgradeSpec()
    own = spec.rollout.upgrade_policy if spec.rollout else None
    if (own or upgrade.policy) != "Automatic":
        return Permission()
    if offer is None:
        return Permission(granted=True)
    outdated: Mapping[str, object] = condition_of(world.parent, "UpToDate")
    since = seconds_of(outdated.get("lastTransitionTime")) if outdated.get("status") == "False" else None
    left = SETTLE_SECONDS if since is None else since + SETTLE_SECONDS - now
    if left > 0:
        return Permission(why="it waits for its turn among the objects of its class", again=left)
    closed = _closed(upgrade, now)
    if closed is not None:
        return closed
    if world.ahead >= (upgrade.max_concurrent or 1):
        why = f"{world.ahead} objects of its class come first (upgrade.maxConcurrent)"
        return Permission(why=why, again=TURN_SECONDS)
    return Permission(granted=True)


def _closed(upgrade: UpgradeSpec, now: float) -> Permission | None:
    """Return what is waited for where the class's window is closed."""
    window = upgrade.window
    if window is None:
        return None
    try:
        left = opens_in(now, window.start, window.duration_minutes, window.days, window.time_zone)
    except (KeyError, ValueError):
        return Permission(why=f"the class's time zone {window.time_zone} is unknown; write another, or none")
    if left <= 0:
        return None
    return Permission(why=f"the class's window opens at {window.start}", again=left)
