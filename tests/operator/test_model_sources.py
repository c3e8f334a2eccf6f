"""Sources beyond hubs: who the fetch is, which version it brings, and what could never work."""

from __future__ import annotations

import copy
import json

import pytest

from slipway_api.conditions import Reason
from slipway_operator.apply import apply_child
from slipway_operator.kinds import DEPLOYMENT, JOB
from slipway_operator.plan import Plan, Refusal, make_plan
from slipway_operator.plan.cache import View

COMMIT = "c" * 40
KEY = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"


def planned(recorded, source, *, cache=None, credentials=None, classes=None, **spec):
    model = {"source": source, **({"cache": cache} if cache else {})}
    model |= {"credentials": credentials} if credentials else {}
    parent = recorded.parent("chat", model=model, **spec)
    world = recorded.world(parent, classes=classes or {}, known=recorded.inspection)
    return make_plan(world, recorded.here, recorded.moment)


def fetch_pod(recorded, source, **more):
    plan = planned(recorded, source, cache={"mode": "Shared"}, **more)
    assert isinstance(plan, Plan), plan
    return plan.prepared.wish.job["spec"]["template"]["spec"]


def engine_pod(recorded, source, **more):
    plan = planned(recorded, source, **more)
    assert isinstance(plan, Plan), plan
    (deployment,) = plan.of_kind(DEPLOYMENT)
    return deployment["spec"]["template"]["spec"]


def variables(pod, *, init=False):
    (container,) = pod["initContainers" if init else "containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


@pytest.mark.parametrize("source", ["s3://bucket/m", "gs://bucket/m", "oci://registry.example/team/m:1"])
def test_the_job_fetches_the_version_that_was_inspected(recorded, source):
    (container,) = fetch_pod(recorded, source)["containers"]
    assert container["args"][:4] == ["fetch", source, "--revision", COMMIT]
    assert "--revision" in engine_pod(recorded, source)["initContainers"][0]["args"]


def test_a_bucket_s_keys_are_variables_of_the_job_alone(recorded):
    pod = fetch_pod(recorded, "s3://bucket/m", credentials={"secretName": "keys"})
    told = variables(pod)
    assert told["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "keys", "key": "AWS_ACCESS_KEY_ID"}}
    assert told["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["key"] == "AWS_SECRET_ACCESS_KEY"
    assert told["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
    assert "HF_TOKEN" not in told


def test_google_s_key_is_a_file_of_the_job_alone(recorded):
    pod = fetch_pod(recorded, "gs://bucket/m", credentials={"secretName": "keys"})
    told = variables(pod)["GOOGLE_APPLICATION_CREDENTIALS"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if told.startswith(m["mountPath"])]
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "keys"
    assert mount["readOnly"] is True


def test_a_registry_s_credential_is_the_secret_s_token(recorded):
    pod = fetch_pod(recorded, "oci://h/b:1", credentials={"secretName": "keys"})
    assert variables(pod)["HF_TOKEN"] == {"secretKeyRef": {"name": "keys", "key": "token"}}


def test_a_service_account_s_token_is_in_jobs_alone(recorded):
    identity = {"serviceAccountName": "reader"}
    pod = fetch_pod(recorded, "s3://bucket/m", credentials=identity)
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("reader", False)
    told = variables(pod)["AWS_WEB_IDENTITY_TOKEN_FILE"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if told.startswith(m["mountPath"])]
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "sts.amazonaws.com"
    gs = fetch_pod(recorded, "gs://bucket/m", credentials=identity)
    assert variables(gs)["SLIPWAY_WORKLOAD_IDENTITY"] == "true"
    assert "projected" not in json.dumps(gs)

    model = {"source": "s3://bucket/m", "cache": {"mode": "Shared"}, "credentials": identity}
    parent = recorded.parent("chat", model=model)
    asked = make_plan(recorded.world(parent), recorded.here, recorded.moment)
    ready = {asked.prepared.wish.key: View(filled=True)}
    served = make_plan(recorded.world(parent, views=ready), recorded.here, recorded.moment)
    (deployment,) = served.of_kind(DEPLOYMENT)
    engine = deployment["spec"]["template"]["spec"]
    assert "serviceAccountName" not in engine
    assert engine["automountServiceAccountToken"] is False
    assert "serviceAccountToken" not in json.dumps(engine)


def test_the_inspect_job_is_the_same_identity(recorded):
    model = {"source": "s3://b-1/m", "cache": {"mode": "Shared"}, "credentials": {"serviceAccountName": "r"}}
    world = recorded.world(recorded.parent("chat", model=model))
    world = type(world)(world.parent)  # nothing was found out yet
    plan = make_plan(world, recorded.here, recorded.moment)
    (job,) = plan.of_kind(JOB)
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "r"


@pytest.mark.parametrize(
    ("source", "fields", "reason", "says"),
    [
        ("hf://a/b", {"credentials": {"serviceAccountName": "x"}}, Reason.INVALID_SPEC, "secretName"),
        ("s3://b-1/m", {"credentials": {"serviceAccountName": "x"}}, Reason.INVALID_SPEC, "mode Shared"),
        (
            "hf://a/b",
            {"cache": {"mode": "Shared", "accessMode": "ReadOnlyMany"}},
            Reason.VOLUME_NOT_SHAREABLE,
            "pvc://CLAIM/PATH",
        ),
    ],
)
def test_what_could_never_work_is_refused_with_the_way_out(recorded, source, fields, reason, says):
    plan = planned(recorded, source, **fields)
    assert isinstance(plan, Refusal), plan
    assert plan.reason is reason
    assert says in plan.message


def test_an_image_is_mounted_by_its_digest(recorded):
    source = "oci://registry.example:5000/team/m:1"
    pod = engine_pod(recorded, source, cache={"mode": "Image"})
    assert "initContainers" not in pod
    (volume,) = [v for v in pod["volumes"] if v["name"] == "model"]
    reference = f"registry.example:5000/team/m@sha256:{COMMIT}"
    assert volume == {"name": "model", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}


class Dropping:
    """An API server as v1.34 is where the gate ImageVolume is off: what it does not know is gone."""

    def __init__(self):
        self.stored = []

    async def get(self, kind, key):
        return None

    async def apply(self, kind, key, body, *, subresource=None, force=True, dry_run=False):
        answer = copy.deepcopy(body)
        pod = answer["spec"]["template"]["spec"]
        pod["volumes"] = [volume for volume in pod["volumes"] if "image" not in volume]
        if not dry_run:
            self.stored.append(answer)
        return answer


async def test_a_cluster_without_image_volumes_is_told_as_such_and_gets_no_pods(recorded):
    (deployment,) = planned(recorded, "oci://h/b:1", cache={"mode": "Image"}).of_kind(DEPLOYMENT)
    api, parent = Dropping(), recorded.parent("chat")
    problem = await apply_child(api, DEPLOYMENT, parent, None, deployment, lambda *_: None)
    assert problem.reason is Reason.IMAGE_VOLUMES_MISSING
    assert "PerReplica" in problem.message
    assert api.stored == []


async def test_a_deployment_without_image_volumes_is_not_asked_about(recorded):
    (deployment,) = planned(recorded, "oci://h/b:1").of_kind(DEPLOYMENT)
    api, parent = Dropping(), recorded.parent("chat")
    assert await apply_child(api, DEPLOYMENT, parent, None, deployment, lambda *_: None) is None
    assert len(api.stored) == 1


def test_signers_reach_the_fetch_and_name_another_volume(recorded):
    offer = {"metadata": {"name": "signed"}, "spec": {"signatures": {"publicKeys": [KEY]}}}
    plain = planned(recorded, "s3://bucket/m", cache={"mode": "Shared"})
    signed = planned(
        recorded, "s3://bucket/m", cache={"mode": "Shared"}, classes={"signed": offer}, className="signed"
    )
    assert isinstance(signed, Plan), signed
    pod = signed.prepared.wish.job["spec"]["template"]["spec"]
    assert variables(pod)["SLIPWAY_SIGNATURE_KEYS"] == f"{KEY}\n"
    assert signed.prepared.wish.key != plain.prepared.wish.key


@pytest.mark.parametrize(
    "name", ["SLIPWAY_SIGNATURE_KEYS", "SLIPWAY_ALLOWED_SOURCES", "SLIPWAY_WORKLOAD_IDENTITY"]
)
def test_an_object_s_environment_does_not_speak_for_its_class(recorded, name):
    offer = {"metadata": {"name": "open"}, "spec": {"allow": {"env": True}}}
    more = {"classes": {"open": offer}, "className": "open"}
    plan = planned(recorded, "s3://b/m", podTemplate={"env": [{"name": name, "value": "mine"}]}, **more)
    assert isinstance(plan, Refusal)
    assert "the operator's own prefix" in plan.message


def test_a_class_names_the_stores(recorded):
    network = {"s3Endpoint": "http://minio.store:9000", "s3Region": "eu-1", "gsEndpoint": "http://gs.store"}
    offer = {"metadata": {"name": "ours"}, "spec": {"network": network}}
    plan = planned(
        recorded, "s3://bucket/m", cache={"mode": "Shared"}, classes={"ours": offer}, className="ours"
    )
    told = variables(plan.prepared.wish.job["spec"]["template"]["spec"])
    assert told["AWS_ENDPOINT_URL_S3"] == "http://minio.store:9000"
    assert (told["AWS_REGION"], told["STORAGE_EMULATOR_HOST"]) == ("eu-1", "http://gs.store")
