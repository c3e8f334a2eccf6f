"""The plan for one LLMDeployment: its children as they should be next, or why there can be none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import LLMDeploymentSpec, PlanStatus
from slipway_operator.explain.findings import Finding
from slipway_operator.explain.pods import is_ready
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, PER_REVISION, Kind, Object, key_of
from slipway_operator.plan.classes import Refused, classed
from slipway_operator.plan.course import Course, chart
from slipway_operator.plan.effective import Effective, UnknownAccelerator, resolve
from slipway_operator.plan.history import History, recall
from slipway_operator.plan.installation import Installation
from slipway_operator.plan.pod import render_pod
from slipway_operator.plan.prepare import Prepared, prepare
from slipway_operator.plan.render import owner_reference, render_deployment, render_single
from slipway_operator.plan.replicas import replicas_of
from slipway_operator.plan.revision import LABEL_REVISION, Rendering, render_revision
from slipway_operator.plan.sizing import Sizing, doubted, engine_of, size, unread
from slipway_operator.plan.support import unsupported_field
from slipway_operator.plan.upgrade import Permission, permission
from slipway_operator.plan.world import World

MAX_PROBLEMS = 3


@dataclass(frozen=True)
class Plan:
    """What should be next.

    Attributes:
        suspended: whether the object is parked.
        values: the values in force for what the operator would render now.
        children: what to apply, in this order.
        surplus: children to delete after that.
        history: the revisions, and which of them is wanted.
        course: where the rollout stands.
        sizing: how a replica fits, or why that is not known.
        prepared: how far everything is that new pods need.
        class_name: the class in force.
        spec: the object's spec with what its class adds.
    """

    suspended: bool
    spec: LLMDeploymentSpec = field(repr=False)
    values: Effective
    children: Sequence[tuple[Kind, Object]]
    surplus: Sequence[tuple[Kind, Object]]
    history: History
    course: Course = field(repr=False)
    sizing: Sizing
    prepared: Prepared = field(repr=False)
    class_name: str | None = None
    held: Finding | None = None
    """What new pods wait for, where some are wanted that cannot be made yet."""
    upgrade: Permission = field(default_factory=Permission)
    """Whether an upgrade may replace pods, and what it waits for."""

    @property
    def again(self) -> float | None:
        """Return after how many seconds to look again though nothing happens."""
        upgrade = self.upgrade.again if self.history.outdated else None
        return min((time for time in (self.course.again, upgrade) if time is not None), default=None)

    @property
    def replicas(self) -> int:
        """Return the number of replicas wanted."""
        return self.values.replicas

    def of_kind(self, kind: Kind) -> list[Object]:
        """Return the children of one kind that are to be applied."""
        return [child for one, child in self.children if one is kind]

    @property
    def revision(self) -> str:
        """Return the revision that the object asks for."""
        return self.history.desired.name


@dataclass(frozen=True)
class Refusal:
    """Why the object cannot be planned; nothing that exists is touched.

    `sizing` is told where known, `children` are applied: what was found out about the model is kept.
    """

    reason: Reason
    message: str
    sizing: PlanStatus | None = None
    children: Sequence[tuple[Kind, Object]] = ()


def make_plan(world: World, installation: Installation, now: float) -> Plan | Refusal:
    """Return the plan for an LLMDeployment. `now` is in seconds since 1970."""
    parent = world.parent
    try:
        given = LLMDeploymentSpec.model_validate(parent.get("spec") or {})
        found = classed(given, key_of(parent).namespace, world.classes if installation.classes else None)
        spec = found.spec
        missing = unsupported_field(spec)
        if missing is not None:
            return Refusal(Reason.UNSUPPORTED_FIELD, missing)
        values = resolve(key_of(parent).name, found, installation)
        prepared = prepare(world, found, replace(values, replicas=replicas_of(found, world.scaled)))
    except ValidationError as error:
        return Refusal(Reason.INVALID_SPEC, explain(error))
    except Refused as error:
        return Refusal(error.reason, str(error))
    except UnknownAccelerator as error:
        return Refusal(Reason.UNKNOWN_ACCELERATOR, str(error))
    values, known = prepared.values, prepared.known
    facts = known.facts if known is not None else None
    sizing = size(spec, engine_of(values), facts, unread(values), installation.catalogue)
    noted = tuple(value.model_dump(by_alias=True, exclude_none=True) for value in values.values)
    rendering = Rendering(render_pod(key_of(parent).name, spec, values), noted)
    upgrade = permission(spec, found.offer, world, now)
    history = recall(world, rendering, automatic=upgrade.granted)
    if sizing.refusal is not None:
        if not _proven(world, history):
            return Refusal(Reason.DOES_NOT_FIT, sizing.refusal, sizing.status, prepared.children)
        sizing = doubted(sizing)
    gated = prepared.gate is not None and not history.known
    if gated:
        history = history.held()
    course = chart(world, history, spec, values, now)
    children = _children(parent, course, values, installation)
    if gated and not history.known:  # nothing runs yet, and nothing can
        children = [child for child in children if child[0] not in PER_REVISION]
    return Plan(
        suspended=spec.suspend,
        spec=spec,
        values=values,
        children=[*prepared.children, *children],
        surplus=[*_surplus(world, course), *prepared.surplus],
        history=course.history,
        course=course,
        upgrade=upgrade,
        sizing=sizing,
        prepared=prepared,
        class_name=found.name,
        held=prepared.gate if gated and values.replicas else None,
    )


def _proven(world: World, history: History) -> bool:
    """Return whether pods as the object asks for them have served: then no sum says that they do not fit."""
    name = history.desired.name
    serving = (pod for pod in world.pods if (pod["metadata"].get("labels") or {}).get(LABEL_REVISION) == name)
    return history.desired.good or any(is_ready(pod) for pod in serving)


def _children(
    parent: Object, course: Course, values: Effective, installation: Installation
) -> list[tuple[Kind, Object]]:
    """Return what to apply: revisions before the Deployments made from them, less before more pods."""
    owner = owner_reference(parent)
    known = course.history.by_name
    stored = [(CONTROLLER_REVISION, render_revision(parent, one, owner)) for one in course.history.to_write]
    single = [*render_single(parent, values, installation).items()]
    deployments = [
        (
            DEPLOYMENT,
            render_deployment(parent, known[name], count, in_place=name == course.step.in_place),
        )
        for name, count in sorted(course.step.replicas.items(), key=lambda item: course.growth(*item))
        if name in known
    ]
    return [*stored, *single, *deployments]


def _surplus(world: World, course: Course) -> list[tuple[Kind, Object]]:
    """Return the Deployments that have no pods any more, and the revisions that need not be kept."""
    gone = {
        course.history.by_name[name].deployment for name in course.step.gone if name in course.history.by_name
    }
    old = {one.name for one in course.history.superfluous({course.target, *course.running})}
    return [
        *((DEPLOYMENT, obj) for obj in world.deployments if key_of(obj).name in gone),
        *((CONTROLLER_REVISION, obj) for obj in world.revisions if course.history.revision_of(obj) in old),
    ]


def explain(error: ValidationError) -> str:
    """Return a validation error as one sentence: each field's path, what is wrong, what was found."""
    problems = error.errors(include_url=False, include_context=False)
    shown = [_problem(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        shown.append(f"and {len(problems) - MAX_PROBLEMS} more")
    return "; ".join(shown)


def _problem(problem: Mapping[str, Any]) -> str:
    path = ".".join(["spec", *(str(part) for part in problem["loc"])])
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{path} is not a field that this operator knows; remove it, or upgrade the operator"
    if problem["type"] == "missing":
        return f"{path} is missing"
    return f"{path}: {text[:1].lower()}{text[1:]}"
