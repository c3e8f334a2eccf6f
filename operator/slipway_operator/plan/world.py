"""What one reconcile sees: one LLMDeployment, and everything that belongs to it, at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from slipway_api.conditions import Reason
from slipway_api.inspection import Inspection
from slipway_api.v1alpha1 import AutoscalingStatus
from slipway_operator.kinds import Key, Kind, Object
from slipway_operator.plan.cache import View


@dataclass(frozen=True)
class Scaled:
    """What the autoscaler last decided for an object, and what it has to say in the status."""

    replicas: int
    status: AutoscalingStatus
    active: tuple[Literal["True", "False", "Unknown"], Reason, str]


@dataclass(frozen=True)
class World:
    """One LLMDeployment with what belongs to it.

    Attributes:
        parent: the LLMDeployment as the API server stores it.
        children: its Service and disruption budget, by kind; None where there is none.
        deployments: its Deployments, one a revision.
        revisions: its ControllerRevisions.
        pods: the pods of its Deployments, leaving ones too.
        classes: all LLMClasses there are, by name.
        jobs: the Jobs that inspect its model.
        job_pods: their pods.
        views: how the model caches stand, by key.
        ahead: how many other objects of its class roll now, or are to be upgraded before it.
        known: what its model is, where somebody has looked already.
        alone: whether there will be no operator: pods fetch for themselves then.
        holders: who holds accelerators like those that its pods wait for, as words for people.
        scaled: what the autoscaler decided; None where nobody asked it.
        taken: names of its model that an older object holds, and that object's key.
    """

    parent: Object
    children: Mapping[Kind, Object | None] = field(default_factory=dict)
    deployments: Sequence[Object] = ()
    revisions: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    classes: Mapping[str, Object] = field(default_factory=dict)
    jobs: Sequence[Object] = ()
    job_pods: Sequence[Object] = ()
    views: Mapping[Key, View] = field(default_factory=dict)
    ahead: int = 0
    known: Inspection | None = None
    alone: bool = False
    holders: str = ""
    scaled: Scaled | None = None
    taken: tuple[tuple[str, Key], ...] = ()
