"""A model cache: one claim and one Job, whoever asks; filled once, kept as long as anybody refers to it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding
from slipway_operator.kinds import DEPLOYMENT, LABEL_CACHE, Key
from slipway_operator.plan import Plan, Refusal, make_plan
from slipway_operator.plan.cache import FILLED, RETAIN, UNREFERENCED, Progress, Step, View, next_step
from slipway_operator.progress import ask, read

NOW = 1_800_000_000.0
A, B = Key("team", "a"), Key("team", "b")


def asking(recorded, name="chat", *, cache=None, **spec):
    """Return an object that shares its model."""
    model = {"source": "hf://org/name", "cache": {"mode": "Shared", **(cache or {})}}
    return recorded.parent(name, **{"model": model, **spec})


def plan_of(recorded, parent, **world):
    plan = make_plan(recorded.world(parent, **world), recorded.here, recorded.moment)
    assert isinstance(plan, Plan), plan
    return plan


def wish_of(recorded, **more):
    return plan_of(recorded, asking(recorded, **more)).prepared.wish


def step(wish, claim=None, jobs=(), pods=(), *, now=NOW, may_delete=True, wishes=None):
    wishes = {A: wish} if wishes is None else wishes
    return next_step(wishes, claim, jobs, pods, now, may_delete=may_delete)


def live(claim, version="5"):
    return {**claim, "metadata": {**claim["metadata"], "uid": "u", "resourceVersion": version}}


def ended(job, kind="Complete"):
    return {**job, "status": {"conditions": [{"type": kind, "status": "True", "message": "m"}]}}


def test_the_claim_is_named_after_source_commit_and_credential(recorded):
    wish = wish_of(recorded)
    model = {"source": "hf://org/name", "cache": {"mode": "Shared"}}
    other = {**model, "credentials": {"secretName": "hub"}}
    assert wish_of(recorded, name="else").key == wish.key, "the object's name does not matter"
    assert wish_of(recorded, model=other).key != wish.key
    assert wish_of(recorded, model={**model, "source": "hf://org/b"}).key != wish.key
    assert "ownerReferences" not in wish.claim["metadata"]
    assert wish.claim["metadata"]["labels"][LABEL_CACHE] == wish.key.name
    assert wish.claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "230Mi"}},  # 92 MiB, a tenth, and room to spare
    }
    given = wish_of(recorded, cache={"size": "5Gi", "storageClassName": "fast", "retainSeconds": 7}).claim
    assert given["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert given["spec"]["storageClassName"] == "fast"
    assert given["metadata"]["annotations"][RETAIN] == "7"


def test_the_job_fills_it_with_the_commit_and_may_nothing_else(recorded):
    spec = {"podTemplate": {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"operator": "Exists"}]}}
    job = wish_of(recorded, **spec).job
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][:4] == ["fetch", "hf://org/name", "--revision", "c" * 40]
    assert container["args"][4:] == [
        "--to", "/var/lib/slipway/cache/model", "--publish", "--progress-port", "8080",
    ]  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "gpu"}, [{"operator": "Exists"}])
    assert names.LABEL_DEPLOYMENT not in job["spec"]["template"]["metadata"]["labels"]
    assert len(job["metadata"]["name"]) <= 63


def test_pods_wait_for_the_files_and_then_mount_them_read_only(recorded):
    parent = asking(recorded)
    plan = plan_of(recorded, parent)
    assert plan.of_kind(DEPLOYMENT) == []
    assert plan.held.reason is Reason.FETCHING
    key = plan.prepared.wish.key
    full = Finding(Reason.VOLUME_FULL, "no room")
    assert plan_of(recorded, parent, views={key: View(finding=full)}).held == full
    ready = plan_of(recorded, parent, views={key: View(filled=True)})
    assert ready.held is None
    (deployment,) = ready.of_kind(DEPLOYMENT)
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"][LABEL_CACHE] == key.name
    pod = template["spec"]
    assert "initContainers" not in pod
    claim = {"claimName": key.name, "readOnly": True}
    assert {"name": "model", "persistentVolumeClaim": claim} in pod["volumes"]
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "model")
    assert mount == {"name": "model", "mountPath": names.MODEL_DIR, "readOnly": True, "subPath": "model"}


def test_from_nothing_to_a_filled_claim(recorded):
    wish = wish_of(recorded)
    first = step(wish)
    assert (first.claim, first.job) == (wish.claim, wish.job)
    assert first.finding.reason is Reason.FETCHING
    claim = live(wish.claim)
    running = step(wish, claim, [wish.job])
    assert running.job is None, "one that runs is left alone"
    assert not running.filled
    done = step(wish, claim, [ended(wish.job)])
    assert done.filled
    assert done.claim["metadata"]["annotations"][FILLED] == "2027-01-15T08:00:00Z"
    # The Job is gone after its time to live; the claim still says that it holds the model.
    later = step(wish, live(done.claim), [], now=NOW + 9999)
    assert (later.filled, later.job) == (True, None)
    assert later.claim["metadata"]["annotations"] == done.claim["metadata"]["annotations"]


def test_after_a_failed_job_another_is_made_when_it_is_gone(recorded):
    wish = wish_of(recorded)
    failed = step(wish, live(wish.claim), [ended(wish.job, "Failed")])
    assert failed.job is None
    assert "another one is made within 10 minutes" in failed.finding.message
    assert step(wish, live(wish.claim), []).job == wish.job


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('{"reason": "VolumeFull", "message": "give it more room."}', Reason.VOLUME_FULL),
        ('{"reason": "ModelGated", "message": "accept the terms."}', Reason.MODEL_GATED),
        ('{"reason": "ModelAccessDenied", "message": "a wrong token."}', Reason.MODEL_ACCESS_DENIED),
        ('{"reason": "ModelNotFound", "message": "404."}', Reason.MODEL_NOT_FOUND),
        ('{"reason": "DownloadStalled", "message": "nothing came."}', Reason.DOWNLOAD_STALLED),
    ],
)
def test_each_failure_of_a_fetch_has_its_reason(recorded, said, reason):
    wish = wish_of(recorded)
    pod = recorded.job_pod(wish.job, container="fetch", code=1, message=said)
    assert step(wish, live(wish.claim), [wish.job], [pod]).finding.reason is reason


def test_two_objects_with_two_sizes_have_one_volume_that_never_shrinks(recorded):
    small, large = (wish_of(recorded, cache={"size": size}) for size in ("1Gi", "2Gi"))
    assert small.key == large.key
    claim = live(large.claim)
    kept = step(None, claim, wishes={A: small, B: large})
    assert kept.claim["spec"]["resources"] == {"requests": {"storage": "2Gi"}}
    grown = step(None, live(small.claim), wishes={A: large, B: small})
    assert grown.claim["spec"]["resources"] == {"requests": {"storage": "2Gi"}}
    class_less = {**large.claim["spec"], "storageClassName": "set-by-the-cluster"}
    kept = step(None, live({**large.claim, "spec": class_less}), wishes={A: small})
    assert kept.claim["spec"]["storageClassName"] == "set-by-the-cluster", "it cannot be changed"


def test_retention_by_reference(recorded):
    wish = wish_of(recorded, cache={"retainSeconds": 100})
    claim = live({**wish.claim, "metadata": {**wish.claim["metadata"]}})
    noted = step(None, claim, wishes={})
    assert noted.claim["metadata"]["annotations"][UNREFERENCED] == "2027-01-15T08:00:00Z"
    assert (noted.delete, noted.again) == (None, 100.0)
    idle = live(noted.claim)
    assert step(None, idle, wishes={}, now=NOW + 99).again == 1.0
    assert step(None, idle, wishes={}, now=NOW + 100).delete == idle
    # Anything that still refers to it stops that.
    mounted = [{"metadata": {"name": "old-pod"}}]
    assert step(None, idle, pods=mounted, wishes={}, now=NOW + 999).delete is None
    ended = [{"metadata": {"name": "fetch-pod"}, "status": {"phase": "Succeeded"}}]
    assert step(None, idle, pods=ended, wishes={}, now=NOW + 999).delete is None, "it would hang half-deleted"
    assert step(None, idle, wishes={A: None}, now=NOW + 999).delete is None, "a revision that runs"
    assert step(None, idle, wishes={}, now=NOW + 999, may_delete=False).delete is None, "after a restart"
    back = step(wish, idle, now=NOW + 50)
    assert UNREFERENCED not in back.claim["metadata"]["annotations"]


def test_a_claim_that_goes_away_is_waited_for(recorded):
    wish = wish_of(recorded)
    going = live(wish.claim)
    going["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert step(wish, going) == Step(finding=step(wish, going).finding)
    assert step(wish, going).finding.reason is Reason.TERMINATING


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({}, True),
        ({"replicas": 1, "rollout": {"maxSurge": 0}}, False),
        ({"replicas": 2, "rollout": {"maxSurge": 0}}, True),
        ({"replicas": 3, "podTemplate": {"nodeSelector": {"kubernetes.io/hostname": "n1"}}}, False),
    ],
)
def test_a_volume_of_one_node_is_refused_where_pods_may_be_on_several(recorded, more, refused):
    parent = asking(recorded, cache={"accessMode": "ReadWriteOnce"}, **more)
    plan = recorded.planned(parent)
    assert isinstance(plan, Refusal) is refused, plan
    if refused:
        assert plan.reason is Reason.VOLUME_NOT_SHAREABLE
        assert "write ReadWriteMany" in plan.message


def test_a_volume_above_the_classes_ceiling_is_refused(recorded):
    offer = {"default": True, "ceilings": {"cacheSize": "100Mi"}}
    classes = {"c": {"metadata": {"name": "c"}, "spec": offer}}
    plan = make_plan(recorded.world(asking(recorded), classes=classes), recorded.here, 0.0)
    assert plan.reason is Reason.CLASS_DENIED
    assert "230Mi, above the class's ceiling of 100Mi" in plan.message


@pytest.mark.parametrize("source", ["file:///m.gguf", "pvc://claim/m"])
def test_what_needs_no_fetch_needs_no_cache(recorded, source):
    parent = recorded.parent(model={"source": source, "cache": {"mode": "Shared"}})
    assert plan_of(recorded, parent).prepared.wish is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"bytes": 5, "total": 10, "rate": 2}', Progress(5, 10, 2)),
        (b'{"bytes": 5, "total": null, "rate": 0}', Progress(5, None, 0)),
        (b'{"bytes": -5, "total": 10, "rate": 2}', None),
        (b'{"bytes": 1e99, "total": 10, "rate": 2}', None),
        (b'{"bytes": true, "total": 10, "rate": 2}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"\xff", None),
    ],
)
def test_an_answer_is_three_numbers_or_nothing(text, found):
    assert read(text) == found


@pytest.mark.parametrize(
    "address", [None, "", "127.0.0.1", "169.254.169.254", "::1", "evil.example", "0.0.0.0"]
)
async def test_no_address_but_a_pods_is_dialled(address):
    assert await ask({"status": {"podIP": address}}) is None


async def test_a_pod_is_asked_over_http_and_a_redirect_is_not_followed(monkeypatch):
    asked = []

    class Pod(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            asked.append(self.path)
            self.send_response(302 if len(asked) > 1 else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(json.dumps({"bytes": 1, "total": 2, "rate": 3}).encode())

    server = HTTPServer(("127.0.0.1", 0), Pod)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr("slipway_operator.progress.PROGRESS_PORT", server.server_port)
    monkeypatch.setattr("slipway_operator.progress._address", str)
    try:
        assert await ask({"status": {"podIP": "127.0.0.1"}}) == Progress(1, 2, 3)
        assert await ask({"status": {"podIP": "127.0.0.1"}}) is None
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == ["/progress"] * 2
    assert await ask({"status": {"podIP": "127.0.0.1"}}) is None, "nobody there"
