"""Faults on a serving object: whatever is killed, deleted or edited, what was asked for comes back.

The model is real, and `Ready` means that the engine answers.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

MODEL = "file:///models/SmolLM2-135M-Instruct.Q4_1.gguf"
OPERATOR = "app.kubernetes.io/name=slipway-operator"
RESOURCES = {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "1536Mi"}}


def llm(name, namespace, **spec):
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": MODEL},
            "engine": {"maxModelLen": 512, "maxNumSeqs": 4},
            "rollout": {"drainSeconds": 5},
            "podTemplate": {"resources": RESOURCES},
            **spec,
        },
    }


class Deployed:
    """One LLMDeployment, and what is true about it now."""

    def __init__(self, kube, wait_for, name, namespace):
        self.kube, self.wait_for, self.name, self.namespace = kube, wait_for, name, namespace

    def ns(self, *arguments, **more):
        return self.kube("-n", self.namespace, *arguments, **more)

    def patch(self, **spec):
        self.ns("patch", "llmdep", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def ready(self):
        obj = self.kube.get("llmdep", self.name, self.namespace)
        status = obj.get("status") or {}
        if status.get("observedGeneration") != obj["metadata"]["generation"]:
            return {}
        return next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})

    def wait(self, reason="Ready", timeout=240):
        def probe():
            condition = self.ready()
            return condition if condition.get("reason") == reason else None

        return self.wait_for(f"reason {reason} of {self.name}", probe, timeout)

    def pods(self):
        selector = f"slipway.dev/deployment={self.name}"
        return self.ns("get", "pods", "-l", selector, json=True)["items"]

    def child(self, kind):
        """Return the name of a child; of a kind that there is one of per revision, that of the newest."""
        status = self.kube.get("llmdep", self.name, self.namespace).get("status") or {}
        per_revision = kind in ("deployment", "controllerrevision")
        return f"{self.name}-{status.get('revision')}" if per_revision else self.name

    def arguments(self):
        deployment = self.kube.get("deployment", self.child("deployment"), self.namespace)
        return deployment["spec"]["template"]["spec"]["containers"][0]["args"] if deployment else []


@pytest.fixture
def serving(kube, operator, namespace, wait_for):
    """A serving LLMDeployment of one replica."""
    kube.apply(llm("chat", namespace))
    deployed = Deployed(kube, wait_for, "chat", namespace)
    deployed.wait()
    return deployed


def operator_pods(kube, operator):
    return kube("-n", operator, "get", "pods", "-l", OPERATOR, json=True)["items"]


def kill_operator(kube, operator):
    """Kill the operator without a word of warning; its Deployment starts another."""
    kube("-n", operator, "delete", "pod", "-l", OPERATOR, "--force", "--grace-period=0")


def operator_up(kube, operator, wait_for):
    def probe():
        pods = operator_pods(kube, operator)
        conditions = [c for pod in pods for c in pod["status"].get("conditions", []) if c["type"] == "Ready"]
        leaving = any("deletionTimestamp" in pod["metadata"] for pod in pods)
        return pods and not leaving and all(c["status"] == "True" for c in conditions)

    wait_for("the operator to be ready", probe, 120)


def test_a_model_that_is_not_there_is_told_retried_and_cured(kube, operator, namespace, wait_for):
    kube.apply(llm("lost", namespace, model={"source": "file:///models/not-there.gguf"}))
    lost = Deployed(kube, wait_for, "lost", namespace)
    message = lost.wait("ModelNotFound")["message"]
    assert "0 of 1 replicas serve" in message
    assert "not-there.gguf" in message
    assert f"run `kubectl -n {namespace} logs lost-" in message

    def restarts():
        return sum(s["restartCount"] for pod in lost.pods() for s in pod["status"]["containerStatuses"])

    seen = restarts()
    wait_for("another attempt", lambda: restarts() > seen, 120)
    assert lost.ready()["reason"] == "ModelNotFound"
    lost.patch(model={"source": MODEL})
    lost.wait()


def test_the_operator_is_killed_in_the_middle_of_a_rollout(kube, operator, serving, wait_for):
    for round_, delay in enumerate((0.0, 0.1, 0.4)):
        serving.patch(engine={"maxNumSeqs": 5 + round_}, replicas=1)
        time.sleep(delay)
        kill_operator(kube, operator)
    operator_up(kube, operator, wait_for)
    wait_for(
        "the newest arguments",
        lambda: value_of(serving.arguments(), "--max-num-seqs") == "7",
        60,
    )
    serving.wait()
    wait_for("one pod", lambda: len(serving.pods()) == 1, 90)
    assert serving.kube.get("llmdep", "chat", serving.namespace)["status"]["ready"] == "1/1"


def value_of(arguments, flag):
    return arguments[arguments.index(flag) + 1] if flag in arguments else None


def test_the_api_server_is_restarted(kube, operator, serving, wait_for, cluster):
    cluster.restart("kube-apiserver")
    wait_for("the API server", lambda: kube("get", "--raw", "/readyz") == "ok", 60)
    serving.ns(
        "patch",
        "service",
        "chat",
        "--type=merge",
        "-p",
        '{"spec":{"selector":{"slipway.dev/deployment":"x"}}}',
    )
    serving.patch(engine={"maxNumSeqs": 9})
    wait_for("the Service", lambda: selector_of(serving) == {"slipway.dev/deployment": "chat"}, 120)
    wait_for("the new arguments", lambda: "9" in serving.arguments(), 120)
    serving.wait()


def test_a_pod_is_deleted_by_hand(kube, operator, serving, wait_for):
    (before,) = serving.pods()
    serving.ns("delete", "pod", before["metadata"]["name"], "--wait=false")
    wait_for("not Ready", lambda: serving.ready().get("status") == "False", 30)
    serving.wait()
    uids = {pod["metadata"]["uid"] for pod in serving.pods() if "deletionTimestamp" not in pod["metadata"]}
    assert uids
    assert before["metadata"]["uid"] not in uids


def selector_of(serving):
    return (serving.kube.get("service", "chat", serving.namespace) or {"spec": {}})["spec"].get("selector")


@pytest.mark.parametrize(
    "edit",
    [
        {"spec": {"selector": {"slipway.dev/deployment": "other"}}},
        {"spec": {"selector": {"added": "by-hand"}}},
        {
            "metadata": {"labels": {"slipway.dev/deployment": None}},
            "spec": {"selector": {"added": "by-hand"}},
        },
    ],
    ids=["changed", "added to", "hidden"],
)
def test_the_service_is_edited_by_hand(kube, operator, namespace, wait_for, edit):
    kube.apply(llm("chat", namespace, suspend=True))
    deployed = Deployed(kube, wait_for, "chat", namespace)
    deployed.wait("Suspended")
    deployed.ns("patch", "service", "chat", "--type=merge", "-p", json.dumps(edit))
    wait_for("the selector", lambda: selector_of(deployed) == {"slipway.dev/deployment": "chat"}, 30)
    labels = kube.get("service", "chat", namespace)["metadata"]["labels"]
    assert labels["slipway.dev/deployment"] == "chat"


@pytest.mark.parametrize("kind", ["deployment", "controllerrevision", "service", "poddisruptionbudget"])
def test_a_child_is_deleted_by_hand(kube, operator, namespace, wait_for, kind):
    kube.apply(llm("chat", namespace, suspend=True))
    deployed = Deployed(kube, wait_for, "chat", namespace)
    deployed.wait("Suspended")
    name = deployed.child(kind)
    old = kube.get(kind, name, namespace)["metadata"]["uid"]
    deployed.ns("delete", kind, name)
    wait_for(
        f"a new {kind}",
        lambda: (kube.get(kind, name, namespace) or {"metadata": {"uid": old}})["metadata"]["uid"] != old,
        60,
    )
    deployed.wait("Suspended")


def test_an_object_takes_its_children_with_it_and_its_name_can_be_used_again(
    kube, operator, namespace, wait_for
):
    deployed = Deployed(kube, wait_for, "chat", namespace)
    for _ in range(2):
        kube.apply(llm("chat", namespace, suspend=True))
        deployed.wait("Suspended")
        deployed.ns("delete", "llmdep", "chat", "--wait")
    kinds = "deployment,controllerrevision,service,poddisruptionbudget,networkpolicy"
    wait_for(
        "the children to go",
        lambda: not deployed.ns("get", kinds, "-l", "slipway.dev/deployment", json=True)["items"],
        60,
    )


def test_scale_suspend_and_zero(kube, operator, serving, wait_for):
    serving.ns("scale", "llmdep", "chat", "--replicas=0")
    serving.wait("ScaledToZero")
    assert serving.pods() == []
    serving.ns("scale", "llmdep", "chat", "--replicas=1")
    serving.wait()
    serving.patch(suspend=True)
    serving.wait("Suspended")
    assert kube.get("service", "chat", serving.namespace) is not None


def test_a_second_operator_stands_by_and_takes_over(kube, operator, namespace, wait_for):
    kube("-n", operator, "scale", "deployment", "-l", OPERATOR, "--replicas=2")
    try:
        wait_for("two operators", lambda: len(operator_pods(kube, operator)) == 2, 60)
        operator_up(kube, operator, wait_for)
        leader = holder(kube, operator)
        kube("-n", operator, "delete", "pod", leader, "--wait=false")
        wait_for("another leader", lambda: holder(kube, operator) not in ("", leader), 20)
        kube.apply(llm("chat", namespace, suspend=True))
        Deployed(kube, wait_for, "chat", namespace).wait("Suspended", timeout=30)
    finally:
        kube("-n", operator, "scale", "deployment", "-l", OPERATOR, "--replicas=1")
        wait_for("one operator", lambda: len(operator_pods(kube, operator)) == 1, 120)
        operator_up(kube, operator, wait_for)


def test_a_leader_that_is_killed_is_followed_within_20_s_and_writes_nothing_more(
    kube, operator, namespace, wait_for, cluster
):
    """By the API server's audit log, which names the pod that each request came from."""
    if cluster.audit_log is None:
        pytest.skip(f"the provider {cluster.provider} keeps no audit log")
    kube("-n", operator, "scale", "deployment", "-l", OPERATOR, "--replicas=2")
    try:
        wait_for("two operators", lambda: len(operator_pods(kube, operator)) == 2, 60)
        operator_up(kube, operator, wait_for)
        leader = holder(kube, operator)
        started = time.monotonic()
        kube("-n", operator, "delete", "pod", leader, "--force", "--grace-period=0")
        # Work that the follower alone is there to do.
        for number in range(5):
            kube.apply(llm(f"chat{number}", namespace, suspend=True))
        wait_for("another leader", lambda: holder(kube, operator) not in ("", leader), 20, every=0.1)
        took = time.monotonic() - started
        for number in range(5):
            Deployed(kube, wait_for, f"chat{number}", namespace).wait("Suspended", timeout=30)
        assert took < 20
        assert pods_that_write(cluster, operator, after_first_of=holder(kube, operator)) == {
            holder(kube, operator)
        }
    finally:
        kube("-n", operator, "scale", "deployment", "-l", OPERATOR, "--replicas=1")
        wait_for("one operator", lambda: len(operator_pods(kube, operator)) == 1, 120)
        operator_up(kube, operator, wait_for)


def pods_that_write(cluster, operator, after_first_of):
    """Return the operator's pods that wrote something but a Lease since a pod first did."""
    account, pods = f"system:serviceaccount:{operator}:", []
    for line in cluster.audit_log.read_text().splitlines():
        if account not in line:
            continue
        event = json.loads(line)
        writes = event["verb"] in ("create", "update", "patch", "delete")
        if writes and (event.get("objectRef") or {}).get("resource") != "leases":
            pods += (event["user"].get("extra") or {}).get("authentication.kubernetes.io/pod-name", [])
    return set(pods[pods.index(after_first_of) :])


def holder(kube, operator):
    return kube.get("lease", "slipway-operator", operator)["spec"].get("holderIdentity", "")


def test_a_second_reconcile_of_an_unchanged_world_writes_nothing(kube, operator, serving, wait_for, cluster):
    """By the API server's audit log: a new operator reconciles everything, and writes only its Lease."""
    if cluster.audit_log is None:
        pytest.skip(f"the provider {cluster.provider} keeps no audit log")
    mine = writes(cluster, operator, since="", namespace=serving.namespace)
    assert {"services", "poddisruptionbudgets", "deployments", "llmdeployments/status"} <= set(mine)
    measured = wait_for("what the engine measured", lambda: measured_by(serving), 60)
    assert measured["weights"] + measured["kvCache"] <= measured["usable"] <= measured["limit"] == 1536 << 20
    assert 40 << 20 < measured["weights"] < 400 << 20  # a 4-bit model of 135 million parameters
    assert measured["maxModelLen"] == 512
    settled(cluster, operator, wait_for)
    since = datetime.now(UTC).isoformat()
    old = holder(kube, operator)
    kube("-n", operator, "delete", "pod", "-l", OPERATOR)
    wait_for("a new leader", lambda: holder(kube, operator) not in ("", old), 90)
    operator_up(kube, operator, wait_for)
    time.sleep(10)
    assert writes(cluster, operator, since) == []
    assert "leases" in writes(cluster, operator, since, leases=True)  # it was at work all the time


def measured_by(deployed):
    """Return the memory that the status says the engine measured; None where it says nothing yet."""
    status = deployed.kube.get("llmdep", deployed.name, deployed.namespace)["status"]
    return status.get("plan", {}).get("measured")


def settled(cluster, operator, wait_for):
    """Wait until the operator has written nothing for some seconds."""

    def probe():
        since = datetime.now(UTC).isoformat()
        time.sleep(6)
        return not writes(cluster, operator, since)

    wait_for("the operator to be quiet", probe, 120)


def writes(cluster, operator, since, *, namespace=None, leases=False):
    """Return the resources that the operator wrote, from the audit log."""
    account = f"system:serviceaccount:{operator}:"
    found = []
    for line in cluster.audit_log.read_text().splitlines():
        if account not in line:
            continue
        event = json.loads(line)
        target = event.get("objectRef") or {}
        resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
        written = event["verb"] in ("create", "update", "patch", "delete", "deletecollection")
        if not written or not event["user"]["username"].startswith(account):
            continue
        if event["requestReceivedTimestamp"] < since or (namespace and target.get("namespace") != namespace):
            continue
        if (resource == "leases") == leases:
            found.append(resource)
    return found
