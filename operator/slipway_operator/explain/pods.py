"""What keeps one pod from serving, read from its conditions and container states."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding, clean
from slipway_operator.explain.termination import explain_termination
from slipway_operator.kinds import Object, key_of

PULL_SECRET_EVENT: Final = "FailedToRetrieveImagePullSecret"  # noqa: S105 - an event's reason

_PULL_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CONFIG_REASONS: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_CLAIM_MISSING: Final = re.compile(r'persistentvolumeclaim "([^"]*)" not found')
# What the scheduler adds about preemption does not help anybody to make room.
_PREEMPTION: Final = re.compile(r"[.,;]? *(no new claims to deallocate, *)?preemption: .*$", re.DOTALL)
_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*"(: \w+: )?')
_SECRETS_MISSING: Final = re.compile(r"\(([^)]+)\)")


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod gets traffic."""
    return not is_leaving(pod) and condition_of(pod, "Ready").get("status") == "True"


def is_leaving(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod is being deleted."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def pull_failures(pods: Iterable[Object]) -> list[Object]:
    """Return the pods whose images cannot be pulled: their events may tell of a missing pull secret."""
    return [pod for pod in pods if not is_leaving(pod) and any(_pull_problems(pod))]


def explain_pod(pod: Object, events: Collection[Object] = ()) -> Finding | None:
    """Return what keeps `pod` from serving; None where it serves. `events` are those of a failed pull."""
    if is_ready(pod):
        return None
    if is_leaving(pod):
        return _leaving(pod)
    return (
        _failed(pod)
        or _unschedulable(pod)
        or _pull(pod, events)
        or _config(pod)
        or _ended(pod)
        or _lost(pod)
        or _fell_ill(pod)
        or _on_the_way(pod)
    )


def _leaving(pod: Object) -> Finding:
    return Finding(Reason.TERMINATING, f"pod {_name(pod)} finishes its streams", on_the_way=True)


def _failed(pod: Object) -> Finding | None:
    status = pod.get("status") or {}
    if status.get("phase") != "Failed":
        return None
    why = clean(str(status.get("message") or status.get("reason") or "it failed"))
    reason = Reason.EVICTED if status.get("reason") == "Evicted" else Reason.ENGINE_CRASHED
    return Finding(reason, f"the node gave up pod {_name(pod)}: {why}", _describe(pod))


def _unschedulable(pod: Object) -> Finding | None:
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("status") != "False":
        return None
    message = clean(_PREEMPTION.sub("", str(scheduled.get("message") or "no node fits")))
    missing = _CLAIM_MISSING.search(message)
    if missing is not None:
        return Finding(
            Reason.CONFIG_MISSING,
            f"PersistentVolumeClaim {missing.group(1)} does not exist; create it or correct model.source",
            f"kubectl -n {key_of(pod).namespace} get persistentvolumeclaims",
        )
    return Finding(Reason.UNSCHEDULABLE, f"no node takes the pod: {message}", _describe(pod))


def _pull_problems(pod: Object) -> Iterator[Mapping[str, Any]]:
    return (waiting for _, waiting in _waiting(pod) if waiting.get("reason") in _PULL_REASONS)


def _pull(pod: Object, events: Collection[Object]) -> Finding | None:
    problem = next(_pull_problems(pod), None)
    if problem is None:
        return None
    # A later attempt puts "Back-off ..." before the first one's words; without it the sentence stands still.
    detail = clean(_BACK_OFF.sub("", str(problem.get("message") or ""))) or "the node could not pull it"
    missing = _missing_secrets(events)
    if missing:
        return Finding(
            Reason.PULL_SECRET_MISSING,
            f"image pull secret {missing} does not exist in the namespace, and without it the image cannot "
            f"be pulled: {detail}",
            f"kubectl -n {key_of(pod).namespace} get secrets",
        )
    return Finding(Reason.IMAGE_PULL_FAILED, f"image cannot be pulled: {detail}", _describe(pod))


def _missing_secrets(events: Collection[Object]) -> str:
    for event in events:
        if event.get("reason") == PULL_SECRET_EVENT:
            found = _SECRETS_MISSING.search(str(event.get("message") or ""))
            return clean(found.group(1)) if found else "of the pod"
    return ""


def _config(pod: Object) -> Finding | None:
    for container, waiting in _waiting(pod):
        if waiting.get("reason") in _CONFIG_REASONS:
            detail = clean(str(waiting.get("message") or waiting["reason"]))
            message = f"container {container} cannot be created: {detail}"
            return Finding(Reason.CONFIG_MISSING, message, _describe(pod))
    return None


def _ended(pod: Object) -> Finding | None:
    """Return why a container ended, now or the last time: until the pod serves, that is the news."""
    for container, state, last in _states(pod):
        if container != names.ENGINE_CONTAINER and (state.get("terminated") or {}).get("exitCode") == 0:
            continue  # an init container that did its work, perhaps at a second attempt
        for ended in (state.get("terminated"), last.get("terminated")):
            finding = ended and explain_termination(ended, container, _logs(pod, container))
            if finding:
                return finding
    return None


def _lost(pod: Object) -> Finding | None:
    """Return that the node is gone: then the pod is unready although its container still counts as ready."""
    status = pod.get("status") or {}
    serving = any(
        container["name"] == names.ENGINE_CONTAINER and container.get("ready")
        for container in status.get("containerStatuses") or ()
    )
    if status.get("reason") != "NodeLost" and not serving:
        return None
    node = (pod.get("spec") or {}).get("nodeName", "?")
    return Finding(Reason.NODE_LOST, f"node {node} does not answer", f"kubectl describe node {node}")


def _fell_ill(pod: Object) -> Finding | None:
    """Return that the engine was ready since it started, and is no more."""
    running = next(
        (state.get("running") for name, state, _ in _states(pod) if name == names.ENGINE_CONTAINER), None
    )
    changed = condition_of(pod, "Ready").get("lastTransitionTime")
    if not running or not changed or str(changed) <= str(running.get("startedAt") or changed):
        return None
    text = "the engine served and stopped reporting ready: it hangs or is overloaded"
    return Finding(Reason.ENGINE_UNHEALTHY, text, _logs(pod, names.ENGINE_CONTAINER))


def _on_the_way(pod: Object) -> Finding:
    running = {container for container, state, _ in _states(pod) if "running" in state}
    if names.ENGINE_CONTAINER in running:
        text = "the engine loads the model"
        return Finding(Reason.LOADING, text, _logs(pod, names.ENGINE_CONTAINER), on_the_way=True)
    if names.FETCH_CONTAINER in running:
        text = "the model is being downloaded"
        return Finding(Reason.FETCHING, text, _logs(pod, names.FETCH_CONTAINER), on_the_way=True)
    if condition_of(pod, "PodScheduled").get("status") == "True":
        return Finding(Reason.STARTING, "containers are being created", _describe(pod), on_the_way=True)
    return Finding(Reason.SCHEDULING, "pods wait for a node", _describe(pod), on_the_way=True)


def condition_of(pod: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a pod's condition; empty where it has none of that kind."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == kind:
            return dict(condition)
    return {}


def _states(pod: Object) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield name, state and last state of each container, init containers first."""
    status = pod.get("status") or {}
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(field) or ():
            yield container["name"], container.get("state") or {}, container.get("lastState") or {}


def _waiting(pod: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, state["waiting"]) for name, state, _ in _states(pod) if state.get("waiting"))


def _name(pod: Object) -> str:
    return key_of(pod).name


def _describe(pod: Object) -> str:
    return f"kubectl -n {key_of(pod).namespace} describe pod {_name(pod)}"


def _logs(pod: Object, container: str) -> str:
    # Without --previous: after a crash this shows the attempt that failed, and the sentence stays the same
    # whether the container waits for its next start or has started.
    return f"kubectl -n {key_of(pod).namespace} logs {_name(pod)} -c {container}"
