"""Rollouts on a real API server and scheduler: full accelerators, broken revisions, deletions in the middle.

The GPUs are those of nodes that are played (`e2e.fake_nodes`), so no engine runs here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Lab:
    """Some played nodes, and objects whose pods run there."""

    def __init__(self, kube, cluster, namespace, wait_for, gpus):
        self.kube, self.namespace, self.wait_for = kube, namespace, wait_for
        self.prefix = f"lab-{uuid.uuid4().hex[:6]}"
        command = [sys.executable, "-m", "e2e.fake_nodes", "--prefix", self.prefix, "--gpus", str(gpus)]
        self.kubelet = subprocess.Popen(
            command, cwd=ROOT, env=cluster.env, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.kubelet.stdout is not None
        assert self.kubelet.stdout.readline().strip() == "ready"

    def ns(self, *arguments, **more):
        return self.kube("-n", self.namespace, *arguments, **more)

    def apply(self, name="chat", **spec):
        spec = {
            "model": {"source": "file:///models/none.gguf"},
            **spec,
            "rollout": {"drainSeconds": 0, "progressDeadlineSeconds": 60, **spec.get("rollout", {})},
            "podTemplate": {
                # A CPU engine that asks for a GPU: so nothing has to be inspected, where no engine runs.
                "resources": {name: {"nvidia.com/gpu": "1"} for name in ("requests", "limits")},
                "nodeSelector": {"slipway.dev/fake": self.prefix},
                "tolerations": [{"key": "slipway.dev/fake", "operator": "Exists"}],
            },
        }
        self.kube.apply(
            {
                "apiVersion": "slipway.dev/v1alpha1",
                "kind": "LLMDeployment",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": spec,
            }
        )

    def patch(self, spec, name="chat"):
        self.ns("patch", "llmdep", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def object(self, name="chat"):
        return self.kube.get("llmdep", name, self.namespace)

    def condition(self, name="chat", kind="Ready"):
        obj = self.object(name)
        status = obj.get("status") or {}
        if status.get("observedGeneration") != obj["metadata"]["generation"]:
            return {}
        return next((c for c in status.get("conditions", []) if c["type"] == kind), {})

    def told(self, reason, name="chat", timeout=150):
        def probe():
            found = self.condition(name)
            seen.append(f"{found.get('reason')}: {found.get('message')}")
            return found if found.get("reason") == reason else None

        seen = []
        try:
            return self.wait_for(f"{reason} of {name}", probe, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; told: {list(dict.fromkeys(seen))}") from None

    def pods(self, name="chat"):
        found = self.ns("get", "pods", "-l", f"slipway.dev/deployment={name}", json=True)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def children(self, name="chat"):
        kinds = "deployments,controllerrevisions,services,poddisruptionbudgets,networkpolicies,pods"
        return self.ns("get", kinds, "-l", f"slipway.dev/deployment={name}", json=True)["items"]

    def replicas(self):
        found = self.ns("get", "deployments", json=True)["items"]
        return {d["metadata"]["name"]: d["spec"]["replicas"] for d in found}


@pytest.fixture
def lab(kube, cluster, operator, namespace, wait_for, request):
    made = Lab(kube, cluster, namespace, wait_for, getattr(request, "param", 2))
    yield made
    made.kubelet.kill()
    made.kubelet.communicate()
    kube("delete", "nodes", "-l", f"slipway.dev/fake={made.prefix}", "--wait=false")
    kube("-n", namespace, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")


def test_on_full_accelerators_one_pod_is_replaced_after_the_other(lab):
    lab.apply(replicas=2)
    lab.told("Ready")
    old = lab.object()["status"]["revision"]
    lab.patch({"engine": {"maxNumSeqs": 9}})
    told = lab.told("Unschedulable", timeout=30)["message"]
    assert "of nvidia.com/gpu, its own pods hold 2" in told
    least = 2

    def replaced():
        nonlocal least
        status = lab.object()["status"]
        least = min(least, status["readyReplicas"])
        return status["revision"] != old and lab.condition().get("reason") == "Ready"

    lab.wait_for("the new revision", replaced, 150, every=0.2)
    assert least >= 1
    assert list(lab.replicas()) == [f"chat-{lab.object()['status']['revision']}"]


def test_where_nothing_may_be_missing_it_waits_and_takes_the_room_that_comes(lab):
    lab.apply(replicas=1)
    lab.apply("other", replicas=1)
    lab.told("Ready")
    lab.told("Ready", "other")
    lab.patch({"engine": {"maxNumSeqs": 9}, "rollout": {"maxUnavailable": 0}})
    told = lab.told("Unschedulable")["message"]
    assert "its own pods hold 1, other holds 1" in told
    assert "rollout.maxUnavailable: 0 forbids to replace pods in place" in told
    assert lab.object()["status"]["ready"] == "1/1"
    lab.patch({"suspend": True}, "other")
    lab.told("Ready")


@pytest.mark.parametrize("how", ["never-ready", "crashes"])
def test_a_revision_that_never_serves_is_given_up(lab, how):
    lab.apply(replicas=1)
    lab.told("Ready")
    good, generation = lab.object()["status"]["revision"], lab.object()["metadata"]["generation"]
    lab.patch({"model": {"servedNames": [how]}})
    told = lab.told("RolloutFailed")["message"]
    assert f"so revision {good} runs again" in told
    if how == "crashes":
        assert "ModelUnsupported: Layers of type X are unknown" in told
    lab.wait_for("the old pods alone", lambda: list(lab.replicas()) == [f"chat-{good}"], 60)
    obj = lab.object()
    assert obj["status"]["ready"] == "1/1"
    assert obj["spec"]["model"]["servedNames"] == [how]
    assert obj["metadata"]["generation"] == generation + 1
    assert lab.condition(kind="Stalled")["status"] == "True"
    lab.patch({"model": {"servedNames": ["chat"]}})
    lab.told("Ready")


def test_an_object_deleted_in_the_middle_of_a_rollout_leaves_nothing(lab):
    lab.apply(replicas=2)
    lab.told("Ready")
    lab.patch({"engine": {"maxNumSeqs": 9}})
    lab.wait_for("two revisions", lambda: len(lab.replicas()) == 2, 30)
    lab.ns("delete", "llmdep", "chat", "--wait")
    lab.wait_for("the children to go", lambda: not lab.children(), 90)


def test_a_namespace_deleted_in_the_middle_of_a_rollout_goes(lab, kube, operator, wait_for):
    lab.apply(replicas=2)
    lab.told("Ready")
    lab.patch({"engine": {"maxNumSeqs": 9}})
    kube("delete", "namespace", lab.namespace, "--wait=false")
    wait_for("the namespace to go", lambda: kube.get("namespace", lab.namespace) is None, 120)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": lab.namespace}})
    lab.apply(replicas=1)  # the operator goes on, for an object of the same name too
    lab.told("Ready")


def test_a_spec_that_flips_back_in_the_middle_ends_where_it_was(lab):
    lab.apply(replicas=2)
    lab.told("Ready")
    before = {pod["metadata"]["uid"] for pod in lab.pods()}
    lab.patch({"engine": {"maxNumSeqs": 9}})
    lab.wait_for("two revisions", lambda: len(lab.replicas()) == 2, 30)
    lab.patch({"engine": None})
    lab.told("Ready")
    assert {pod["metadata"]["uid"] for pod in lab.pods()} == before


def test_suspended_and_scaled_in_the_middle(lab):
    lab.apply(replicas=2)
    lab.told("Ready")
    lab.patch({"engine": {"maxNumSeqs": 9}})
    lab.wait_for("two revisions", lambda: len(lab.replicas()) == 2, 30)
    lab.patch({"replicas": 1})
    lab.told("Ready")
    lab.patch({"engine": {"maxNumSeqs": 10}})
    lab.wait_for("two revisions", lambda: len(lab.replicas()) == 2, 30)
    lab.patch({"suspend": True})
    lab.told("Suspended")
    assert lab.pods() == []
    lab.patch({"suspend": False, "replicas": 2})
    lab.told("Ready")


def test_a_foreign_owner_of_fields_gets_its_own_and_not_ours(lab):
    lab.apply(replicas=1)
    lab.told("Ready")
    name = f"chat-{lab.object()['status']['revision']}"
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "annotations": {"example.com/note": "theirs"}},
        "spec": {"replicas": 0, "minReadySeconds": 1},
    }
    lab.ns("apply", "--server-side", "--force-conflicts", "--field-manager=example", "-f", "-", stdin=foreign)

    def ours_again():
        live = lab.kube.get("deployment", name, lab.namespace)
        return live["spec"]["replicas"] == 1 and live

    live = lab.wait_for("our replicas", ours_again, 30)
    assert live["metadata"]["annotations"]["example.com/note"] == "theirs"
    assert live["spec"]["minReadySeconds"] == 1
    lab.told("Ready")
    quiet = live["metadata"]["generation"]
    time.sleep(3)
    assert lab.kube.get("deployment", name, lab.namespace)["metadata"]["generation"] == quiet


def test_a_lost_node_is_named(lab):
    lab.apply(replicas=1)
    lab.told("Ready")
    lab.kubelet.kill()
    assert f"node {lab.prefix}-0 does not answer" in lab.told("NodeLost", timeout=120)["message"]


def test_another_operators_kopf_peering_changes_nothing(lab):
    """A peering object of higher priority makes kopf operators that take part in peering stand by."""
    plural = "clusterkopfpeerings"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.kopf.dev"},
        "spec": {
            "group": "kopf.dev",
            "scope": "Cluster",
            "names": {"kind": "ClusterKopfPeering", "plural": plural, "singular": "clusterkopfpeering"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }
    lab.kube.apply(crd)
    try:
        lab.kube("wait", "--for=condition=Established", f"crd/{plural}.kopf.dev", "--timeout=30s")
        peer = {"priority": 1000, "lifetime": 3600, "lastseen": "2099-01-01T00:00:00+00:00"}
        lab.kube.apply(
            {
                "apiVersion": "kopf.dev/v1",
                "kind": "ClusterKopfPeering",
                "metadata": {"name": "default"},
                "status": {"stranger": peer},
            }
        )
        lab.apply(replicas=1)
        lab.told("Ready", timeout=30)
    finally:
        lab.kube("delete", "crd", f"{plural}.kopf.dev", "--wait=false")
