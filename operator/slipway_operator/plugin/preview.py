"""What would happen to one LLMDeployment: the operator's own planner, run on what the cluster shows now."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from slipway_api import names
from slipway_api.facts import ModelFacts
from slipway_api.v1alpha1 import PlanStatus
from slipway_operator.diff import covers
from slipway_operator.kinds import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LLM_CLASS,
    PARENT,
    POD,
    SINGLE,
    Kind,
    Object,
    key_of,
)
from slipway_operator.plan import Installation, Plan, Refusal, World, make_plan
from slipway_operator.plan.sizing import engine_of, size
from slipway_operator.plugin.errors import PluginError
from slipway_operator.plugin.kubectl import Kubectl
from slipway_operator.plugin.screen import dump

Action: TypeAlias = Literal["create", "change", "delete", "unchanged"]


@dataclass(frozen=True)
class Change:
    """What happens to one child; `lines` is the difference as a unified diff of YAML."""

    action: Action
    kind: str
    name: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """The answer for one object. `refusal` is the sentence of one that cannot be planned."""

    name: str
    refusal: str | None = None
    reason: str | None = None
    sizing: PlanStatus | None = None
    effective: Sequence[Mapping[str, Any]] = ()
    changes: Sequence[Change] = field(default_factory=tuple)


def world_of(cluster: Kubectl, parent: Object) -> World:
    """Return the world of an object as the cluster shows it; `parent` replaces the stored one's spec."""
    key = key_of(parent)
    selector = ",".join(f"{name}={value}" for name, value in names.selector_of(key.name).items())
    stored = next((one for one in cluster.find(PARENT) if key_of(one).name == key.name), None)
    merged = parent if stored is None else {**stored, "spec": parent.get("spec")}
    children: dict[Kind, Object | None] = {
        kind: next((one for one in cluster.find(kind, selector=selector)), None) for kind in SINGLE
    }
    return World(
        parent=merged,
        children=children,
        deployments=cluster.find(DEPLOYMENT, selector=selector),
        revisions=cluster.find(CONTROLLER_REVISION, selector=selector),
        pods=cluster.find(POD, selector=selector),
        classes=_classes(cluster),
    )


def preview(world: World, installation: Installation, facts: ModelFacts | None, unknown: str) -> Preview:
    """Return what the operator would do next."""
    name = str(key_of(world.parent))
    plan = make_plan(world, installation, time.time())
    if isinstance(plan, Refusal):
        return Preview(name, plan.message, str(plan.reason), plan.sizing)
    sizing = size(plan.spec, engine_of(plan.values), facts, unknown, installation.catalogue)
    effective = [value.model_dump(by_alias=True, exclude_none=True) for value in plan.values.values]
    if sizing.refusal is not None:
        return Preview(name, sizing.refusal, "DoesNotFit", sizing.status, effective)
    return Preview(name, None, None, sizing.status, effective, changes(world, plan))


def changes(world: World, plan: Plan) -> list[Change]:
    """Return what happens to each child, in the order in which it does."""
    live = {(DEPLOYMENT, key_of(one).name): one for one in world.deployments}
    live |= {(CONTROLLER_REVISION, key_of(one).name): one for one in world.revisions}
    live |= {(kind, key_of(one).name): one for kind, one in world.children.items() if one}
    told = [_change(kind, body, live.get((kind, key_of(body).name))) for kind, body in plan.children]
    return [*told, *(Change("delete", kind.kind, key_of(body).name) for kind, body in plan.surplus)]


def _change(kind: Kind, body: Object, live: Object | None) -> Change:
    name = key_of(body).name
    if live is None:
        return Change("create", kind.kind, name, tuple(dump([_shown(body)]).splitlines()))
    if covers(_shown(live), _shown(body)):
        return Change("unchanged", kind.kind, name)
    before, after = _common(_shown(live), _shown(body)), _shown(body)
    lines = difflib.unified_diff(
        dump([before]).splitlines(), dump([after]).splitlines(), "in the cluster", "planned", lineterm="", n=2
    )
    return Change("change", kind.kind, name, tuple(lines))


def _shown(body: Object) -> Object:
    """Return a child without what only the API server's bookkeeping needs."""
    metadata = {
        k: v for k, v in body["metadata"].items() if k in ("name", "namespace", "labels", "annotations")
    }
    rest = {k: v for k, v in body.items() if k not in ("metadata", "status")}
    return {**rest, "metadata": metadata}


def _common(live: Any, planned: Any) -> Any:
    """Return the part of `live` that `planned` speaks of: defaults of the server are no difference."""
    if isinstance(live, Mapping) and isinstance(planned, Mapping):
        return {name: _common(live[name], value) for name, value in planned.items() if name in live}
    if isinstance(live, list) and isinstance(planned, list) and len(live) == len(planned):
        return [_common(one, other) for one, other in zip(live, planned, strict=True)]
    return live


def _classes(cluster: Kubectl) -> dict[str, Object]:
    """Return the classes, none where they may not be read: the operator will say what they forbid."""
    try:
        return {key_of(one).name: one for one in cluster.find(LLM_CLASS, everywhere=True)}
    except PluginError:
        return {}
