"""`spec.rollout` and `spec.routing`: how a change reaches the pods, and how requests do."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from slipway_api.v1alpha1.base import Spec

UpgradePolicy: TypeAlias = Literal["OnChange", "Automatic"]


class CanarySpec(Spec):
    """A few replicas of the new revision first."""

    replicas: Annotated[int, Field(ge=1, le=100)]
    """Replicas of the new revision that run beside the old ones."""
    hold_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """How long they have to serve without trouble before the rest follows. Absent: until `canary` is
    removed."""


class RolloutSpec(Spec):
    """How a change reaches the pods."""

    max_surge: Annotated[int, Field(ge=0, le=100)] | None = None
    """Pods that may exist above the number of replicas while a change is rolled out. Absent: 1."""
    max_unavailable: Annotated[int, Field(ge=0, le=100)] | None = None
    """Replicas that may be missing while a change is rolled out. Absent: 0, or 1 where maxSurge is 0."""
    progress_deadline_seconds: Annotated[int, Field(ge=60, le=86_400)] | None = None
    """Time without progress after which the rollout counts as stalled. Absent: 1800."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """Time a pod that goes away gets to finish its streams. Absent: 300."""
    paused: bool | None = None
    """Holds a rollout where it is. Absent: false."""
    canary: CanarySpec | None = None
    """A few replicas of the new revision first."""
    upgrade_policy: UpgradePolicy | None = None
    """Whether a new operator or an edited class may replace pods: `OnChange` waits for the next change of
    this object, `Automatic` rolls at once, within the class's window. Absent: what the class says, else
    `OnChange`."""
    restart_token: Annotated[str, Field(max_length=64)] | None = None
    """Any text; changing it replaces all pods one after the other."""


class RoutingSpec(Spec):
    """How the gateway chooses a replica."""

    policy: Literal["least-outstanding", "prefix-affine"] | None = None
    """`least-outstanding`: the one with the fewest requests; `prefix-affine`: the one that saw the same
    beginning, unless it is busier than the others. Absent: `least-outstanding`."""
    prefix_characters: Annotated[int, Field(ge=1, le=8192)] | None = None
    """How much of a prompt `prefix-affine` looks at. Absent: 100."""
    max_held_requests: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Most requests the gateway holds while no replica can take them. Absent: twice what a replica
    carries."""
    max_hold_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """How long it holds one. Absent: one and a half times the time a replica takes to start."""
