"""The inspect Job, from the object to facts that are kept: what it may, when it runs, how it fails."""

from __future__ import annotations

import json

import pytest

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_api.inspection import encode
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, JOB, key_of
from slipway_operator.plan import Plan, World, make_plan
from slipway_operator.plan.inspect import LABEL_FACTS

MODEL = {"source": "hf://org/name", "revision": "v1", "credentials": {"secretName": "hub"}}


def plan_of(recorded, parent, **world):
    plan = make_plan(World(parent, **world), recorded.here, recorded.moment)
    assert isinstance(plan, Plan), plan
    return plan


def test_the_job_may_nothing_and_is_placed_like_the_engine(recorded):
    overlay = {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": ["p"],
    }
    plan = plan_of(recorded, recorded.parent(model=MODEL, podTemplate=overlay))
    (job,) = plan.of_kind(JOB)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["inspect", "hf://org/name", "--revision", "v1"]
    assert container["image"] == recorded.image
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "gpu"}, [{"operator": "Exists"}])
    assert pod["imagePullSecrets"] == [{"name": "p"}]
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (2, 600)
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert names.LABEL_DEPLOYMENT not in labels, "no Service sends it requests, no budget counts it"
    assert job["metadata"]["ownerReferences"][0]["name"] == "chat"
    assert len(job["metadata"]["name"]) <= 63
    assert json.dumps(container["env"]).count("hub") == 1


def test_until_the_model_is_known_no_pod_is_made_and_the_sentence_says_so(recorded):
    plan = plan_of(recorded, recorded.parent(model=MODEL))
    assert plan.of_kind(DEPLOYMENT) == plan.of_kind(CONTROLLER_REVISION) == []
    assert plan.held.reason is Reason.INSPECTING
    (job,) = plan.of_kind(JOB)
    again = plan_of(recorded, recorded.parent(model=MODEL), jobs=[job], job_pods=[recorded.job_pod(job)])
    assert again.of_kind(JOB) == [], "a Job that runs is left alone"


def test_what_was_found_is_kept_and_pods_use_the_commit(recorded):
    parent = recorded.parent(model=MODEL)
    (job,) = plan_of(recorded, parent).of_kind(JOB)
    said = encode(recorded.inspection)
    plan = plan_of(
        recorded,
        parent,
        jobs=[job],
        job_pods=[recorded.job_pod(job, code=0, message=said, phase="Succeeded")],
    )
    facts, revision = plan.of_kind(CONTROLLER_REVISION)
    assert LABEL_FACTS in facts["metadata"]["labels"]
    assert plan.held is None
    fetch = revision["data"]["template"]["spec"]["initContainers"][0]["args"]
    assert fetch[:4] == ["fetch", "hf://org/name", "--revision", "c" * 40]
    # The Job is gone after its time to live, the operator was restarted: what was found is still there.
    slimmed = {**facts, "data": json.dumps(facts["data"])}
    later = plan_of(recorded, parent, revisions=[slimmed])
    assert later.of_kind(JOB) == []
    assert later.prepared.known.commit == "c" * 40


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"model": {**MODEL, "revision": "v2"}}, True),
        ({"model": {"source": "hf://org/other"}}, True),
        ({"model": {**MODEL, "credentials": {"secretName": "other"}}}, True),
        ({"model": MODEL, "rollout": {"restartToken": "1"}}, True),
        ({"model": MODEL, "replicas": 3}, False),
        ({"model": MODEL, "engine": {"maxNumSeqs": 2}}, False),
    ],
)
def test_what_is_asked_anew_and_what_is_not(recorded, change, again):
    old = recorded.facts(recorded.parent(model=MODEL))
    plan = plan_of(recorded, recorded.parent(**change), revisions=[old])
    assert bool(plan.of_kind(JOB)) is again
    assert ([key_of(obj).name for _, obj in plan.surplus] == [key_of(old).name]) is again, "old facts go"


def test_a_commit_does_not_move(recorded):
    pinned = {**MODEL, "revision": "a" * 40}
    facts = recorded.facts(recorded.parent(model=pinned))
    restarted = recorded.parent(model=pinned, rollout={"restartToken": "1"})
    assert plan_of(recorded, restarted, revisions=[facts]).of_kind(JOB) == []


def test_facts_of_another_object_or_of_another_hand_are_not_believed(recorded):
    parent = recorded.parent(model=MODEL)
    stolen = recorded.facts(parent)
    stolen["metadata"]["ownerReferences"][0]["uid"] = "somebody"
    assert plan_of(recorded, parent, revisions=[stolen]).held is not None
    broken = recorded.facts(parent)
    for data in ({}, {"inspection": {}}, {"inspection": "x"}, [], "no json", {"inspection": {"facts": {}}}):
        assert plan_of(recorded, parent, revisions=[{**broken, "data": data}]).held is not None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('{"reason": "ModelNotFound", "message": "it is not there."}', Reason.MODEL_NOT_FOUND),
        ('{"reason": "ModelGated", "message": "accept the terms."}', Reason.MODEL_GATED),
        ('{"reason": "ModelAccessDenied", "message": "no."}', Reason.MODEL_ACCESS_DENIED),
        ('{"reason": "DownloadStalled", "message": "no."}', Reason.DOWNLOAD_STALLED),
        ("Traceback", Reason.ENGINE_CRASHED),
    ],
)
def test_a_failure_is_the_sources_own_word(recorded, said, reason):
    parent = recorded.parent(model=MODEL)
    (job,) = plan_of(recorded, parent).of_kind(JOB)
    plan = plan_of(recorded, parent, jobs=[job], job_pods=[recorded.job_pod(job, code=1, message=said)])
    assert plan.held.reason is reason
    assert plan.of_kind(DEPLOYMENT) == []


@pytest.mark.parametrize("message", ["", "{}", "no json", '{"version": 2}', "x" * 5000])
def test_a_pod_that_succeeds_without_facts_is_no_answer(recorded, message):
    parent = recorded.parent(model=MODEL)
    (job,) = plan_of(recorded, parent).of_kind(JOB)
    done = recorded.job_pod(job, code=0, message=message, phase="Succeeded")
    assert plan_of(recorded, parent, jobs=[job], job_pods=[done]).held is not None


def test_a_job_that_failed_without_a_word_says_when_another_comes(recorded):
    parent = recorded.parent(model=MODEL)
    (job,) = plan_of(recorded, parent).of_kind(JOB)
    conditions = [
        {"type": "Failed", "status": "True", "message": "Job was active longer than specified deadline"}
    ]
    plan = plan_of(recorded, parent, jobs=[{**job, "status": {"conditions": conditions}}])
    assert plan.held.reason is Reason.DOWNLOAD_FAILED
    assert "another one is made within 10 minutes" in plan.held.message


def test_what_runs_goes_on_while_another_model_is_looked_at(recorded):
    before = recorded.parent(model=MODEL, replicas=2)
    facts = recorded.facts(before)
    plan = recorded.plan(before)
    stored = next(
        obj for obj in plan.of_kind(CONTROLLER_REVISION) if LABEL_FACTS not in obj["metadata"]["labels"]
    )
    (deployment,) = plan.of_kind(DEPLOYMENT)
    after = recorded.parent(model={**MODEL, "revision": "v2"}, replicas=3, generation=2)
    held = plan_of(recorded, after, revisions=[facts, stored], deployments=[deployment])
    assert held.held.reason is Reason.INSPECTING
    assert held.revision == plan.revision
    (scaled,) = held.of_kind(DEPLOYMENT)
    assert scaled["metadata"]["name"] == deployment["metadata"]["name"]
    assert scaled["spec"]["replicas"] > 2, "it is still scaled"


@pytest.mark.parametrize("more", [{"suspend": True}, {"model": {"source": "file:///m.gguf"}}])
def test_nobody_looks_at_a_parked_object_or_into_the_engines_image(recorded, more):
    assert plan_of(recorded, recorded.parent(**{"model": MODEL, **more})).of_kind(JOB) == []


def test_a_parked_object_is_planned_with_its_commit_once_it_is_woken(recorded):
    parked = plan_of(recorded, recorded.parent(model=MODEL, suspend=True))
    assert parked.held is None
    assert parked.of_kind(DEPLOYMENT) == parked.of_kind(CONTROLLER_REVISION) == parked.of_kind(JOB) == []
    awake = plan_of(recorded, recorded.parent(model=MODEL))
    assert awake.of_kind(JOB), "no revision of the unresolved name was kept"


def test_without_an_operator_pods_fetch_for_themselves(recorded):
    plan = plan_of(recorded, recorded.parent(model={**MODEL, "cache": {"mode": "Shared"}}), alone=True)
    assert plan.of_kind(JOB) == []
    (deployment,) = plan.of_kind(DEPLOYMENT)
    assert deployment["spec"]["template"]["spec"]["initContainers"][0]["args"][3] == "v1"
    looked = plan_of(recorded, recorded.parent(model=MODEL), alone=True, known=recorded.inspection)
    assert (
        looked.of_kind(DEPLOYMENT)[0]["spec"]["template"]["spec"]["initContainers"][0]["args"][3] == "c" * 40
    )
