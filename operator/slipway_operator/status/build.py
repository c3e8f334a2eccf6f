"""The status of an LLMDeployment: counts, values in force, conditions, and the one sentence of Ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import LLMDeploymentStatus, PlanStatus
from slipway_operator.explain.denials import explain_denial
from slipway_operator.explain.findings import Finding, clean, worst
from slipway_operator.explain.pods import explain_pod, is_leaving, is_ready
from slipway_operator.kinds import Key, Object, key_of
from slipway_operator.plan import Plan, Refusal
from slipway_operator.plan.render import LABEL_REVISION
from slipway_operator.problems import ApplyProblem
from slipway_operator.status.conditions import Verdict, conditions_of


@dataclass(frozen=True)
class Observation:
    """All that the status is computed from. `now` is the time of this reconcile, as RFC 3339."""

    parent: Object
    plan: Plan | Refusal
    deployment: Object | None
    pods: Sequence[Object]
    now: str
    problems: Sequence[ApplyProblem] = ()
    pull_events: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    """By pod name: what the kubelet says about a failed image pull."""


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
        accelerator=plan.values.accelerator.name if plan else None,
        plan=PlanStatus(effective=list(plan.values.values)) if plan else None,
        conditions=conditions_of(_verdict(seen, pods), seen.parent, seen.now),
    )
    return status.model_dump(by_alias=True, exclude_none=True)


def _sort_out(seen: Observation, plan: Plan | None) -> _Pods:
    staying = [pod for pod in seen.pods if not is_leaving(pod)]
    return _Pods(
        staying=staying,
        updated=[pod for pod in staying if plan is not None and _revision(pod) == plan.revision],
        leaving=[pod for pod in seen.pods if is_leaving(pod)],
        ready=sum(is_ready(pod) for pod in staying),
        wanted=plan.replicas if plan is not None else _live_replicas(seen.deployment),
    )


def _verdict(seen: Observation, pods: _Pods) -> Verdict:
    plan, refusal = (seen.plan, None) if isinstance(seen.plan, Plan) else (None, seen.plan)
    complete = pods.complete and refusal is None and not seen.problems and _rolled_out(seen, pods.wanted)
    spare = plan.values.max_unavailable if plan is not None else 0
    return Verdict(
        refusal=refusal,
        finding=None if complete or refusal is not None else _finding(seen, pods),
        complete=complete,
        overdue=not complete and _deadline_passed(seen.deployment),
        wanted=pods.wanted,
        ready=pods.ready,
        enough=pods.ready >= max(pods.wanted - spare, 1),
        suspended=plan is not None and plan.suspended,
    )


def _finding(seen: Observation, pods: _Pods) -> Finding:
    """Return what matters most: refused children, refused pods, the newest pods, what is left of the old."""
    namespace = key_of(seen.parent).namespace
    if seen.problems:
        return _explain_problem(seen.problems[0], key_of(seen.parent))
    refused = _condition(seen.deployment, "ReplicaFailure")
    if refused.get("status") == "True" and pods.wanted:
        return explain_denial(str(refused.get("message", "")), namespace)
    newest = worst(_explain(pods.updated, seen))
    if newest is not None:
        return newest
    if pods.leaving and len(pods.staying) == len(pods.updated):
        return next(iter(_explain(pods.leaving, seen)))
    return _rolling(seen, pods)


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
    command = f"kubectl -n {key.namespace} describe {problem.kind.kind.lower()} {key.name}"
    on_the_way = problem.reason is Reason.TERMINATING
    return Finding(problem.reason, problem.message, command, on_the_way=on_the_way)


def _rolling(seen: Observation, pods: _Pods) -> Finding:
    key = key_of(seen.parent)
    message = f"{len(pods.updated)} of {pods.wanted} pods run the newest spec"
    if len(pods.staying) > pods.wanted:
        message += f", {len(pods.staying) - pods.wanted} more are to go"
    command = f"kubectl -n {key.namespace} rollout status deployment {key.name}"
    return Finding(Reason.PROGRESSING, message, command, on_the_way=True)


def _rolled_out(seen: Observation, wanted: int) -> bool:
    """Return whether the Deployment has nothing to do either: somebody else may have added to its pods."""
    if seen.deployment is None:
        return False
    # Its generation is not compared: an annotation of anybody raises it, and Ready would flicker.
    status = seen.deployment.get("status") or {}
    return bool(status.get("replicas", 0) == status.get("updatedReplicas", 0) == wanted)


def _deadline_passed(deployment: Object | None) -> bool:
    progressing = _condition(deployment, "Progressing")
    return progressing.get("reason") == "ProgressDeadlineExceeded" and progressing.get("status") == "False"


def _condition(deployment: Object | None, kind: str) -> Mapping[str, Any]:
    """Return a condition of the Deployment, as long as it speaks of the Deployment's present spec."""
    if deployment is None:
        return {}
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return {}
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})


def _live_replicas(deployment: Object | None) -> int:
    return int(((deployment or {}).get("spec") or {}).get("replicas") or 0)


def _revision(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(LABEL_REVISION, ""))
