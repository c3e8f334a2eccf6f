"""What the status says about recorded worlds: every reason with its sentence and the next command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_api.conditions import Condition, Reason
from slipway_api.v1alpha1 import LLMDeploymentStatus
from slipway_operator.explain.denials import explain_denial
from slipway_operator.explain.pods import explain_pod
from slipway_operator.explain.termination import explain_termination
from slipway_operator.kinds import DEPLOYMENT
from slipway_operator.moments import text_of
from slipway_operator.plan import World, make_plan
from slipway_operator.problems import ApplyProblem
from slipway_operator.status import Observation, build_status, pull_failures


def observe(recorded, parent, *pods, deployment=None, others=(), revisions=(), **more):
    deployments = [deployment or recorded.deployment(parent), *others]
    world = World(parent, deployments=deployments, revisions=revisions, pods=pods)
    plan = make_plan(world, recorded.here, recorded.moment)
    return Observation(world=world, plan=plan, now=recorded.now, **more)


def conditions(status):
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def ready(status):
    condition = next(c for c in status["conditions"] if c["type"] == "Ready")
    return condition["status"], condition["reason"], condition["message"]


# -- pods that the kubelet or the scheduler could not start -------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "reason", "says", "run"),
    [
        (
            "pod-pull",
            Reason.IMAGE_PULL_FAILED,
            'failed to pull and unpack image "registry.invalid',
            "describe pod",
        ),
        ("pod-badname", Reason.IMAGE_PULL_FAILED, "invalid reference format", "describe pod"),
        ("pod-secret", Reason.IMAGE_PULL_FAILED, "localhost/slipway/engine:none", "describe pod"),
        ("pod-config", Reason.CONFIG_MISSING, 'secret "nosecret" not found', "describe pod"),
        ("pod-sched", Reason.UNSCHEDULABLE, "didn't match Pod's node affinity/selector", "describe pod"),
        ("pod-cpu", Reason.UNSCHEDULABLE, "1 Insufficient cpu", "describe pod"),
        (
            "pod-claim",
            Reason.CONFIG_MISSING,
            "PersistentVolumeClaim noclaim does not exist",
            "persistentvolume",
        ),
        ("pod-loading", Reason.LOADING, "loads the model", "logs chat-1-a -c engine"),
    ],
)
def test_a_recorded_pod_is_explained(recorded, pod, reason, says, run):
    parent = recorded.parent()
    status = build_status(observe(recorded, parent, recorded.pod(parent, pod)))
    value, found, message = ready(status)
    assert (value, found) == ("False", reason)
    assert message.startswith("0 of 1 replicas serve: ")
    assert says in message
    assert "run `kubectl -n team " in message
    assert run in message
    assert "reemption" not in message


def test_a_back_off_says_the_same_as_the_first_failure(recorded):
    parent = recorded.parent()
    later = recorded.pod(parent, "pod-pull")
    first = recorded.pod(parent, "pod-pull")
    waiting = first["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "ImagePullBackOff"
    waiting["reason"] = "ErrImagePull"
    waiting["message"] = waiting["message"].split("ErrImagePull: ")[1]
    assert explain_pod(first) == explain_pod(later)


def test_a_missing_pull_secret_is_told_from_the_pods_events(recorded):
    parent = recorded.parent()
    pod = recorded.pod(parent, "pod-secret")
    assert pull_failures([pod]) == [pod]
    events = {pod["metadata"]["name"]: [recorded.load("event-pull-secret")]}
    _, reason, message = ready(build_status(observe(recorded, parent, pod, pull_events=events)))
    assert reason == Reason.PULL_SECRET_MISSING
    assert "image pull secret nosuch does not exist" in message
    assert "kubectl -n team get secrets" in message


# -- pods that were refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployment", "reason", "says", "run"),
    [
        (
            "deployment-quota",
            Reason.QUOTA_EXCEEDED,
            "exceeded quota: q, requested: requests.memory=2Gi",
            "resourcequota",
        ),
        (
            "deployment-quota-must",
            Reason.QUOTA_EXCEEDED,
            "must specify limits.cpu for: engine",
            "resourcequota",
        ),
        (
            "deployment-limit",
            Reason.LIMIT_RANGE_VIOLATED,
            "maximum memory usage per Container is 1Gi",
            "limitrange",
        ),
        ("deployment-sa", Reason.CONFIG_MISSING, 'serviceaccount "nosa" not found', "get serviceaccounts"),
        (
            "deployment-priority",
            Reason.CONFIG_MISSING,
            "no PriorityClass with name nopc",
            "get priorityclasses",
        ),
        (
            "deployment-pod-security",
            Reason.POD_SECURITY_DENIED,
            'violates PodSecurity "restricted',
            "get namespace team",
        ),
        (
            "deployment-policy",
            Reason.ADMISSION_DENIED,
            "only images of registry.example.com may run",
            "admissionpol",
        ),
    ],
)
def test_a_recorded_refusal_is_explained(recorded, deployment, reason, says, run):
    parent = recorded.parent()
    status = build_status(observe(recorded, parent, deployment=recorded.deployment(parent, deployment)))
    value, found, message = ready(status)
    assert (value, found) == ("False", reason)
    assert message.startswith("0 of 1 replicas serve: pods are refused: ")
    assert says in message
    assert run in message
    assert "is forbidden" not in message  # the random name of the refused pod is left out
    assert conditions(status)["Reconciling"] == ("True", reason)
    assert conditions(status)["Stalled"][0] == "False"


def test_a_webhooks_refusal_keeps_its_words():
    finding = explain_denial(
        'admission webhook "policy.example.com" denied the request: images must be signed', "team"
    )
    assert finding.reason is Reason.ADMISSION_DENIED
    assert "images must be signed" in finding.message


def test_a_refusal_of_an_earlier_generation_is_not_told(recorded):
    parent = recorded.parent()
    stale = recorded.deployment(parent, "deployment-quota")
    stale["metadata"]["generation"] = 2
    _, reason, _ = ready(build_status(observe(recorded, parent, deployment=stale)))
    assert reason == Reason.PROGRESSING


# -- engines that ended -------------------------------------------------------------------------------------

ENGINE_REASONS = [
    Reason.MODEL_NOT_FOUND,
    Reason.MODEL_ACCESS_DENIED,
    Reason.MODEL_UNSUPPORTED,
    Reason.MODEL_CORRUPT,
    Reason.DOWNLOAD_FAILED,
    Reason.DOES_NOT_FIT,
    Reason.INVALID_ARGUMENT,
]
TERMINAL = {Reason.MODEL_UNSUPPORTED, Reason.MODEL_CORRUPT, Reason.DOES_NOT_FIT, Reason.INVALID_ARGUMENT}


def report(reason, message="There is no model /models/x.gguf; write a path that exists."):
    return json.dumps({"reason": reason, "message": message})


@pytest.mark.parametrize("container", ["engine", "fetch"])
@pytest.mark.parametrize("waiting", [True, False], ids=["backing off", "running again"])
@pytest.mark.parametrize("reason", ENGINE_REASONS)
def test_what_the_engine_reports_becomes_the_reason(recorded, reason, waiting, container):
    parent = recorded.parent()
    ended = {"exitCode": 1, "reason": "Error", "message": report(reason)}
    status = build_status(
        observe(recorded, parent, recorded.ended(parent, ended, waiting=waiting, container=container))
    )
    value, found, message = ready(status)
    assert (value, found) == ("False", reason)
    assert "There is no model /models/x.gguf; write a path that exists; run `kubectl" in message
    assert f"logs chat-1-a -c {container}`" in message
    stalled = "True" if reason in TERMINAL else "False"
    assert conditions(status)["Stalled"][0] == stalled
    assert conditions(status)["Reconciling"][0] != stalled
    if reason is not Reason.INVALID_ARGUMENT:
        assert conditions(status)["ModelReady"] == ("False", reason)


def test_the_sentence_does_not_change_while_a_crash_loop_turns(recorded):
    parent = recorded.parent()
    ended = {"exitCode": 1, "reason": "Error", "message": report("ModelNotFound")}
    pods = [recorded.ended(parent, ended, waiting=waiting) for waiting in (True, False)]
    just_ended = recorded.ended(parent, ended)
    just_ended["status"]["containerStatuses"][0]["state"] = {"terminated": ended}
    told = [build_status(observe(recorded, parent, pod)) for pod in (*pods, just_ended)]
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize(
    ("ended", "reason", "says"),
    [
        (
            {"exitCode": 137, "reason": "OOMKilled"},
            Reason.OUT_OF_MEMORY,
            "podTemplate.resources.limits.memory",
        ),
        ({"exitCode": 137, "reason": "Error"}, Reason.ENGINE_UNHEALTHY, "liveness probe"),
        (
            {"exitCode": 1, "reason": "Error", "message": "Traceback\n  File x\nRuntimeError: no luck\n\n"},
            Reason.ENGINE_CRASHED,
            "exited with code 1; its last words: RuntimeError: no luck;",
        ),
        (
            {"exitCode": 1, "reason": "Error", "message": "INFO up\nFATAL: CUDA out of memory\nINFO bye\n"},
            Reason.ENGINE_CRASHED,
            "its last words: FATAL: CUDA out of memory;",
        ),
        ({"exitCode": 2, "reason": "Error"}, Reason.ENGINE_CRASHED, "exited with code 2;"),
        (
            {"exitCode": 1, "message": report("Internal", "lost the plot")},
            Reason.ENGINE_CRASHED,
            "lost the plot",
        ),
        ({"exitCode": 1, "message": '{"reason": "Ready", "message": "x y"}'}, Reason.ENGINE_CRASHED, "x y"),
        ({"exitCode": 1, "message": '{"reason": 5}'}, Reason.ENGINE_CRASHED, '{"reason": 5}'),
    ],
)
def test_other_ends_are_explained(recorded, ended, reason, says):
    parent = recorded.parent()
    _, found, message = ready(build_status(observe(recorded, parent, recorded.ended(parent, ended))))
    assert found == reason
    assert says in message


@given(
    code=st.integers(0, 255),
    message=st.text(max_size=300),
    reason=st.sampled_from(["Error", "Completed", ""]),
)
def test_no_termination_message_breaks_or_floods_the_status(code, message, reason):
    finding = explain_termination({"exitCode": code, "reason": reason, "message": message}, "engine", "logs")
    if code in (0, 143):
        assert finding is None
    else:
        assert finding is not None
        assert len(finding.message) < 800
        assert finding.message.isprintable() or any(ord(c) > 127 for c in finding.message)
        assert "\n" not in finding.message


def test_an_engine_that_was_asked_to_end_is_no_failure(recorded):
    parent = recorded.parent()
    _, reason, _ = ready(
        build_status(observe(recorded, parent, recorded.ended(parent, {"exitCode": 0}, waiting=False)))
    )
    assert reason == Reason.LOADING


def test_a_download_that_succeeded_at_the_second_attempt_is_forgotten(recorded):
    parent = recorded.parent()
    pod = recorded.ended(parent, {"exitCode": 1, "message": report("DownloadFailed")}, container="fetch")
    pod["status"]["initContainerStatuses"][0]["state"] = {
        "terminated": {"exitCode": 0, "reason": "Completed"}
    }
    pod["status"]["containerStatuses"][0]["state"] = {"running": {}}
    assert explain_pod(pod).reason is Reason.LOADING


def test_a_download_under_way_is_told(recorded):
    parent = recorded.parent()
    pod = recorded.ended(parent, {}, container="fetch", waiting=False)
    pod["status"]["initContainerStatuses"][0]["lastState"] = {}
    status = build_status(observe(recorded, parent, pod))
    assert ready(status)[1] == Reason.FETCHING
    assert conditions(status)["ModelReady"] == ("False", Reason.FETCHING)


def test_an_evicted_pod_and_a_lost_node_are_told(recorded):
    parent = recorded.parent()
    evicted, lost = recorded.pod(parent), recorded.pod(parent)
    evicted["status"] = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: memory.",
    }
    lost["status"]["reason"] = "NodeLost"
    assert explain_pod(evicted).reason is Reason.EVICTED
    assert "low on resource: memory" in explain_pod(evicted).message
    assert explain_pod(lost).reason is Reason.NODE_LOST
    silent = recorded.ready(parent)  # as the node controller marks the pods of a node that went silent
    next(c for c in silent["status"]["conditions"] if c["type"] == "Ready")["status"] = "False"
    assert explain_pod(silent).reason is Reason.NODE_LOST
    assert "kubectl describe node slipway" in explain_pod(silent).command


def test_an_engine_that_served_and_stopped_is_not_called_loading(recorded):
    pod = recorded.pod(recorded.parent())
    assert explain_pod(pod).reason is Reason.LOADING
    next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")["lastTransitionTime"] = (
        "2099-01-01T00:00:00Z"
    )
    assert explain_pod(pod).reason is Reason.ENGINE_UNHEALTHY


# -- the roll-up --------------------------------------------------------------------------------------------


def test_a_served_object_is_ready_with_everything_in_its_place(recorded):
    parent = recorded.parent(generation=3, replicas=2)
    pods = [recorded.ready(parent, name=name) for name in ("chat-1-a", "chat-1-b")]
    status = build_status(observe(recorded, parent, *pods))
    assert status["ready"] == "2/2"
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 2, 2)
    assert status["selector"] == "slipway.dev/deployment=chat"
    assert status["url"] == "http://chat.team.svc/v1"
    assert status["observedGeneration"] == 3
    assert {c["observedGeneration"] for c in status["conditions"]} == {3}
    assert [c["type"] for c in status["conditions"]] == [
        kind.value for kind in Condition if kind is not Condition.AUTOSCALING_ACTIVE
    ]
    assert conditions(status) == {
        "Accepted": ("True", "Accepted"),
        "ModelReady": ("True", "ModelLoaded"),
        "Available": ("True", "MinimumReplicasAvailable"),
        "UpToDate": ("True", "UpToDate"),
        "Reconciling": ("False", "UpToDate"),
        "Stalled": ("False", "UpToDate"),
        "Ready": ("True", "Ready"),
    }
    LLMDeploymentStatus.model_validate(status)


def test_one_missing_replica_is_not_ready_but_available_where_the_rollout_allows(recorded):
    parent = recorded.parent(replicas=2, rollout={"maxUnavailable": 1})
    seen = observe(recorded, parent, recorded.ready(parent), recorded.pod(parent, "pod-cpu", name="chat-1-b"))
    status = build_status(seen)
    assert status["ready"] == "1/2"
    assert conditions(status)["Available"][0] == "True"
    assert ready(status)[1] == Reason.UNSCHEDULABLE
    strict = recorded.parent(replicas=2)
    status = build_status(observe(recorded, strict, recorded.ready(strict)))
    assert conditions(status)["Available"] == ("False", "MinimumReplicasUnavailable")


def test_a_failing_rollout_is_told_while_the_old_pods_serve(recorded):
    old, new = recorded.parent(), recorded.parent(engine={"image": "registry.invalid/nothing:1"})
    seen = observe(
        recorded,
        new,
        recorded.ready(old),
        recorded.pod(new, "pod-pull", name="chat-2-a"),
        others=[recorded.deployment(old)],
        revisions=[recorded.revision(old)],
    )
    status = build_status(seen)
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 1, 1)
    assert conditions(status)["Available"][0] == "True"
    assert ready(status)[:2] == ("False", Reason.IMAGE_PULL_FAILED)


def test_a_template_that_somebody_added_to_is_not_called_complete(recorded):
    parent = recorded.parent()
    halfway = recorded.deployment(parent, "deployment-pod-security", replicas=1)
    status = build_status(observe(recorded, parent, recorded.ready(parent), deployment=halfway))
    assert ready(status)[1] == Reason.POD_SECURITY_DENIED


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"suspend": True, "replicas": 3}, Reason.SUSPENDED), ({"replicas": 0}, Reason.SCALED_TO_ZERO)],
)
def test_no_pods_on_purpose_is_ready_once_the_last_one_is_gone(recorded, spec, reason):
    parent = recorded.parent(**spec)
    last = recorded.leaving(recorded.ready(parent))
    draining = build_status(observe(recorded, parent, last))
    assert ready(draining)[:2] == ("False", Reason.TERMINATING)
    assert conditions(draining)["Reconciling"] == ("True", Reason.TERMINATING)
    parked = build_status(observe(recorded, parent))
    assert ready(parked)[:2] == ("True", reason)
    assert conditions(parked)["Available"] == ("False", reason)
    assert parked["ready"] == "0/0"


def test_a_passed_deadline_stalls_and_keeps_the_cause(recorded):
    parent = recorded.parent(rollout={"progressDeadlineSeconds": 60})
    pod = recorded.pod(parent, "pod-cpu")
    scheduled = next(c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    scheduled["lastTransitionTime"] = text_of(recorded.moment - 60)
    status = build_status(observe(recorded, parent, pod))
    assert conditions(status)["Stalled"] == ("True", Reason.PROGRESS_DEADLINE_EXCEEDED)
    assert conditions(status)["Reconciling"][0] == "False"
    assert ready(status)[1] == Reason.UNSCHEDULABLE
    assert "no progress within rollout.progressDeadlineSeconds" in ready(status)[2]


def test_an_object_that_cannot_be_read_is_refused_and_left_alone(recorded):
    parent = recorded.parent(rolluot={}, replicas=-1)
    was = recorded.deployment(recorded.parent(replicas=2))
    seen = observe(recorded, parent, recorded.ready(recorded.parent()), deployment=was)
    status = build_status(seen)
    assert status["ready"] == "1/2"
    assert conditions(status)["Accepted"] == ("False", Reason.INVALID_SPEC)
    assert conditions(status)["Stalled"] == ("True", Reason.INVALID_SPEC)
    assert conditions(status)["ModelReady"][0] == "True"
    message = ready(status)[2]
    assert "spec.rolluot is not a field that this operator knows" in message
    assert "spec.replicas: input should be greater than or equal to 0" in message


def test_an_unknown_accelerator_lists_the_known_ones(recorded):
    parent = recorded.parent(accelerator={"type": "zx81"})
    seen = observe(recorded, parent, deployment=recorded.deployment(recorded.parent()))
    _, reason, message = ready(build_status(seen))
    assert reason == Reason.UNKNOWN_ACCELERATOR
    assert "nvidia-l4-24gb" in message


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (
            ApplyProblem(DEPLOYMENT, Reason.CHILD_CONFLICT, "Deployment chat already exists"),
            Reason.CHILD_CONFLICT,
        ),
        (
            ApplyProblem(
                DEPLOYMENT, Reason.ADMISSION_DENIED, 'deployments.apps "chat" is forbidden: exceeded quota: q'
            ),
            Reason.QUOTA_EXCEEDED,
        ),
        (
            ApplyProblem(DEPLOYMENT, Reason.TERMINATING, "Deployment chat is being deleted"),
            Reason.TERMINATING,
        ),
    ],
)
def test_a_child_that_could_not_be_written_is_told_even_while_pods_serve(recorded, problem, reason):
    parent = recorded.parent()
    status = build_status(observe(recorded, parent, recorded.ready(parent), problems=[problem]))
    assert ready(status)[:2] == ("False", reason)


# -- time ---------------------------------------------------------------------------------------------------


def test_a_condition_keeps_its_transition_time_until_its_status_changes(recorded):
    parent = recorded.parent()
    first = build_status(observe(recorded, parent, recorded.pod(parent)))
    parent["status"] = first
    later = replace(observe(recorded, parent, recorded.pod(parent, "pod-cpu")), now="2027-01-01T00:00:00Z")
    times = {c["type"]: c["lastTransitionTime"] for c in build_status(later)["conditions"]}
    assert times.pop("ModelReady") == "2027-01-01T00:00:00Z"  # from False (Loading) to Unknown
    assert set(times.values()) == {recorded.now}
    served = replace(observe(recorded, parent, recorded.ready(parent)), now="2027-01-01T00:00:00Z")
    times = {c["type"]: c["lastTransitionTime"] for c in build_status(served)["conditions"]}
    assert times["Ready"] == "2027-01-01T00:00:00Z"
    assert times["Stalled"] == recorded.now


def test_the_status_of_an_unchanged_world_never_changes(recorded):
    parent = recorded.parent()
    parent["status"] = build_status(observe(recorded, parent, recorded.pod(parent, "pod-pull")))
    later = replace(observe(recorded, parent, recorded.pod(parent, "pod-pull")), now="2027-01-01T00:00:00Z")
    assert build_status(later) == parent["status"]
