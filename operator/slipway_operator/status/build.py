"""The status of an LLMDeployment: counts, values in force, conditions, and the one sentence of Ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import (
    EffectiveValue,
    LLMDeploymentStatus,
    MemoryStatus,
    ModelStatus,
    PlanStatus,
    RevisionStatus,
)
from slipway_operator.explain.denials import explain_denial
from slipway_operator.explain.findings import Finding, clean, worst
from slipway_operator.explain.pods import explain_pod, is_leaving, is_ready
from slipway_operator.kinds import Key, Object, key_of
from slipway_operator.moments import seconds_of
from slipway_operator.plan import Plan, Refusal, World
from slipway_operator.plan.prepare import Prepared
from slipway_operator.plan.revision import LABEL_REVISION, NOT_SHAPING
from slipway_operator.problems import ApplyProblem
from slipway_operator.rivals import sentence
from slipway_operator.status.conditions import Verdict, conditions_of
from slipway_operator.status.story import HELD, reverted, rolling, upgrade


@dataclass(frozen=True)
class Observation:
    """All that the status is computed from. `now` is the time of this reconcile, as RFC 3339."""

    world: World
    plan: Plan | Refusal
    now: str
    problems: Sequence[ApplyProblem] = ()
    pull_events: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    """By pod name: what the kubelet says about a failed image pull."""
    measured: MemoryStatus | None = None
    """What the newest revision's engine measured of its memory."""

    @property
    def parent(self) -> Object:
        """Return the LLMDeployment."""
        return self.world.parent


@dataclass(frozen=True)
class _Pods:
    """The pods of one LLMDeployment, sorted out."""

    staying: Sequence[Object]
    updated: Sequence[Object]
    leaving: Sequence[Object]
    ready: int
    wanted: int

    @property
    def complete(self) -> bool:
        """Return whether exactly the pods wanted are there and serve."""
        settled = len(self.staying) == len(self.updated) == self.ready == self.wanted
        return settled and (self.wanted > 0 or not self.leaving)

    @property
    def all_serve(self) -> bool:
        """Return whether as many pods as wanted serve, of whatever revision."""
        return len(self.staying) == self.ready == self.wanted


def build_status(seen: Observation) -> dict[str, Any]:
    """Return the status, complete."""
    key = key_of(seen.parent)
    plan = seen.plan if isinstance(seen.plan, Plan) else None
    pods = _sort_out(seen, plan)
    status = LLMDeploymentStatus(
        observed_generation=seen.parent["metadata"].get("generation"),
        replicas=len(pods.staying),
        ready_replicas=pods.ready,
        updated_replicas=len(pods.updated),
        ready=f"{pods.ready}/{pods.wanted}",
        selector=",".join(f"{k}={v}" for k, v in names.selector_of(key.name).items()),
        url=f"http://{key.name}.{key.namespace}.svc/v1",
        accelerator=_accelerator(plan) if plan else None,
        revision=plan.course.target if plan else None,
        last_good_revision=_last_good(plan) if plan else None,
        revisions=_revisions(pods),
        class_name=plan.class_name if plan else None,
        model=_model(plan.prepared) if plan else None,
        plan=_planned(seen.plan, seen.measured),
        autoscaling=seen.world.scaled.status if seen.world.scaled else None,
        conditions=conditions_of(_verdict(seen, pods), seen.parent, seen.now),
    )
    return status.model_dump(by_alias=True, exclude_none=True)


def _planned(plan: Plan | Refusal, measured: MemoryStatus | None) -> PlanStatus | None:
    if isinstance(plan, Refusal):
        return plan.sizing
    return plan.sizing.status.model_copy(update={"effective": _effective(plan), "measured": measured})


def _accelerator(plan: Plan) -> str:
    """Return what a replica runs on, for people."""
    name, count = plan.values.accelerator.name, plan.sizing.status.accelerators_per_replica or 1
    return f"{count} x {name}" if count > 1 else name


def _sort_out(seen: Observation, plan: Plan | None) -> _Pods:
    staying = [pod for pod in seen.world.pods if not is_leaving(pod)]
    return _Pods(
        staying=staying,
        updated=[pod for pod in staying if plan is not None and _revision(pod) == plan.revision],
        leaving=[pod for pod in seen.world.pods if is_leaving(pod)],
        ready=sum(is_ready(pod) for pod in staying),
        wanted=plan.replicas if plan is not None else _live_replicas(seen.world.deployments),
    )


def _revisions(pods: _Pods) -> list[RevisionStatus]:
    found = []
    for name in sorted({_revision(pod) for pod in pods.staying} - {""}):
        of_it = [pod for pod in pods.staying if _revision(pod) == name]
        ready = sum(is_ready(pod) for pod in of_it)
        found.append(RevisionStatus(name=name, replicas=len(of_it), ready_replicas=ready))
    return found


def _model(prepared: Prepared) -> ModelStatus | None:
    """Return what is known of the files that are served, and how far they have come."""
    known, progress = prepared.known, prepared.progress
    if known is None:
        return None
    return ModelStatus(
        commit=known.commit,
        digest=known.digest,
        license=known.license,
        size=known.size,
        architecture=known.facts.architecture,
        parameters=known.facts.parameters,
        claim=prepared.wish.key.name if prepared.wish is not None else None,
        fetched=progress.fetched if progress is not None else None,
        bytes_per_second=progress.rate if progress is not None else None,
        updated_at=progress.at if progress is not None else None,
    )


def _last_good(plan: Plan) -> str | None:
    good = [one for one in plan.history.by_name.values() if one.good]
    return max(good, key=lambda one: one.number).name if good else None


def _effective(plan: Plan) -> list[EffectiveValue]:
    """Return the values in force: those that shape pods as they were when the pods were made."""
    now = plan.values.values
    if not plan.history.outdated:
        return list(now)
    kept = [value for value in now if _shapes_no_pod(value.field)]
    then = [EffectiveValue.model_validate(value) for value in plan.history.desired.values]
    return sorted([*kept, *(value for value in then if not _shapes_no_pod(value.field))], key=_by_field)


def _by_field(value: EffectiveValue) -> str:
    return value.field


def _shapes_no_pod(field_path: str) -> bool:
    return any(field_path == path or field_path.startswith(f"{path}.") for path in NOT_SHAPING)


def _verdict(seen: Observation, pods: _Pods) -> Verdict:
    plan, refusal = (seen.plan, None) if isinstance(seen.plan, Plan) else (None, seen.plan)
    held = HELD.get(plan.course.phase) if plan is not None and pods.all_serve else None
    settled = refusal is None and not seen.problems and plan is not None and not plan.course.reverted
    settled = settled and plan is not None and plan.held is None
    complete = settled and (held is not None or (pods.complete and _rolled_out(seen)))
    spare = plan.values.max_unavailable if plan is not None else 0
    late = plan is not None and (plan.course.progress.overdue is not None or _refused_for_long(seen, plan))
    return Verdict(
        refusal=refusal,
        finding=None if complete or refusal is not None else _finding(seen, pods),
        complete=complete,
        overdue=not complete and late,
        wanted=pods.wanted,
        ready=pods.ready,
        enough=pods.ready >= max(pods.wanted - spare, 1),
        suspended=plan is not None and plan.suspended,
        held=held if complete else None,
        upgrade=upgrade(plan) if plan is not None else None,
        scaling=seen.world.scaled.active if seen.world.scaled else None,
        taken=sentence(key_of(seen.parent), seen.world.taken) if seen.world.taken else "",
    )


def _finding(seen: Observation, pods: _Pods) -> Finding:
    """Return what matters most: refused children, refused pods, the newest pods, what is left of the old."""
    key = key_of(seen.parent)
    if seen.problems:
        return _explain_problem(seen.problems[0], key)
    refused = _refused(seen)
    if refused and pods.wanted:
        return explain_denial(str(refused.get("message", "")), key.namespace)
    plan = seen.plan
    if isinstance(plan, Plan) and plan.held is not None:
        return plan.held
    if isinstance(plan, Plan) and plan.course.reverted:
        return reverted(plan, key)
    newest = worst(_explain(pods.updated, seen))
    if newest is not None:
        return _with_holders(newest, seen)
    if pods.leaving and len(pods.staying) == len(pods.updated):
        return next(iter(_explain(pods.leaving, seen)))
    others = worst(_explain(pods.staying, seen))
    if others is not None and isinstance(plan, Plan) and plan.course.phase in HELD:
        return _with_holders(others, seen)
    return rolling(plan, key, len(pods.updated), len(pods.staying), pods.wanted)


def _with_holders(finding: Finding, seen: Observation) -> Finding:
    """Return a finding about pods that no node takes, with who holds the accelerators and the way out."""
    if finding.reason is not Reason.UNSCHEDULABLE or not isinstance(seen.plan, Plan):
        return finding
    message = finding.message
    if seen.world.holders:
        message += f"; {seen.world.holders}"
    serving = any(one.serving for name, one in seen.plan.course.running.items() if name != seen.plan.revision)
    if serving and seen.plan.values.max_unavailable == 0 and not seen.plan.course.left_open:
        message += "; rollout.maxUnavailable: 0 forbids to replace pods in place, 1 allows it"
    return replace(finding, message=message)


def _explain(pods: Sequence[Object], seen: Observation) -> list[Finding]:
    found = (explain_pod(pod, seen.pull_events.get(key_of(pod).name, ())) for pod in pods)
    return [finding for finding in found if finding is not None]


def _explain_problem(problem: ApplyProblem, key: Key) -> Finding:
    if problem.reason is Reason.ADMISSION_DENIED:
        return explain_denial(problem.message, key.namespace, what=f"{problem.kind.kind} is refused")
    if problem.reason is Reason.INVALID_SPEC:
        return Finding(
            problem.reason, clean(problem.message), f"kubectl -n {key.namespace} edit llmdep {key.name}"
        )
    command = f"kubectl -n {key.namespace} describe {problem.kind.kind.lower()} {problem.name or key.name}"
    on_the_way = problem.reason is Reason.TERMINATING
    return Finding(problem.reason, problem.message, command, on_the_way=on_the_way)


def _rolled_out(seen: Observation) -> bool:
    """Return whether Kubernetes has nothing to do either: somebody else may have added to the pods."""
    if not isinstance(seen.plan, Plan) or len(seen.world.deployments) > 1:
        return False
    if not seen.world.deployments:
        return seen.plan.replicas == 0
    # Its generation is not compared: an annotation of anybody raises it, and Ready would flicker.
    status = seen.world.deployments[0].get("status") or {}
    return bool(status.get("replicas", 0) == status.get("updatedReplicas", 0) == seen.plan.replicas)


def _refused(seen: Observation) -> Mapping[str, Any]:
    """Return the condition by which a Deployment says that its pods are refused; empty where none does."""
    found = (_condition(deployment, "ReplicaFailure") for deployment in seen.world.deployments)
    return next((condition for condition in found if condition.get("status") == "True"), {})


def _refused_for_long(seen: Observation, plan: Plan) -> bool:
    since, now = seconds_of(_refused(seen).get("lastTransitionTime")), seconds_of(seen.now)
    if since is None or now is None:
        return False
    return now - since >= plan.values.progress_deadline_seconds


def _condition(deployment: Object, kind: str) -> Mapping[str, Any]:
    """Return a condition of a Deployment, as long as it speaks of the Deployment's present spec."""
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return {}
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})


def _live_replicas(deployments: Sequence[Object]) -> int:
    return sum(int((deployment.get("spec") or {}).get("replicas") or 0) for deployment in deployments)


def _revision(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(LABEL_REVISION, ""))
