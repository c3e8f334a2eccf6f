"""Models out of an S3 store and an OCI registry: other people's servers, keys of Secrets, a private CA.

versitygw and the CNCF's distribution registry run in a pod; what is in them was pushed by the test's own
requests. In the end nothing that anybody can read may hold a key, those that were refused included.
"""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from e2e import pki, push, servers
from e2e.conftest import KubectlError, tool
from e2e.space import Space
from e2e.volumes import shared_volume

pytestmark = pytest.mark.timeout(900)  # the first run builds two servers
HERE = Path(__file__).resolve().parent
RESOURCES = {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# The registry knows passwords as bcrypt, which Python's library has not: one password, hashed beforehand.
OCI_USER, OCI_PASSWORD = "puller", "oci-pw-2f7c91d4e85ab063"
OCI_HASH = "$2y$05$N9qo8uLOickgx2ZMRZoMyetPd6FXvzWJvl1OizSnxkebjGar.Lixm"
REGISTRY = """
version: 0.1
storage: {filesystem: {rootdirectory: /data/registry}}
http: {addr: ":5000", tls: {certificate: /srv/tls.crt, key: /srv/tls.key}}
auth: {htpasswd: {realm: tests, path: /srv/htpasswd}}
"""
READ = (
    "pods,jobs,deployments,replicasets,controllerrevisions,services,endpointslices,persistentvolumeclaims,"
    "networkpolicies,poddisruptionbudgets,llmdeployments,events,configmaps,leases"
)
QUESTION = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}
ASK = """
import sys, urllib.request
head = {"Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions", sys.argv[1].encode(), head)
print(urllib.request.urlopen(request, timeout=100).read().decode())
"""


class Stores:
    """The namespace of the running servers, the address by which they are known, and their keys."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.host = f"stores.{namespace}.svc.cluster.local"
        self.keys = {
            "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
            "AWS_SECRET_ACCESS_KEY": f"s3/{secrets.token_urlsafe(30)}+=",
        }
        self.oci = f"oci://{self.host}:5000/{push.REPOSITORY}"
        self.s3 = f"s3://{push.BUCKET}/{push.PREFIX}"


@pytest.fixture(scope="module")
def stores(kube, images, tmp_path_factory):
    """Both servers in one pod, with the model in them."""
    for name in ("registry", "versitygw"):
        tool("load", str(servers.archive_of(name)))
    place = Stores(f"e2e-{uuid.uuid4().hex[:8]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "slipway.dev/e2e": "true"}
    meta = {"name": "stores", "namespace": place.namespace}
    folder = tmp_path_factory.mktemp("stores")
    pki.issue(folder, place.host, "localhost")
    place.authority = (folder / "ca.crt").read_text()
    files = {name: (folder / name).read_text() for name in ("tls.crt", "tls.key", "ca.crt")}
    files |= {"htpasswd": f"{OCI_USER}:{OCI_HASH}\n", "config.yml": REGISTRY}
    files |= {"push.py": (HERE / "push.py").read_text()}
    ports = [{"name": "s3", "port": 7070}, {"name": "oci", "port": 5000}]
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace, "labels": labels}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": files},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta,
         "spec": {"selector": {"app": "stores"}, "ports": ports}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "labels": {"app": "stores"}},
         "spec": pod_of(place, images["engine"]["ref"])},
    )  # fmt: skip
    try:
        kube("-n", place.namespace, "wait", "pod/stores", "--for=condition=Ready", "--timeout=170s")
        yield place
    finally:
        kube("delete", "namespace", place.namespace, "--wait=false")


def pod_of(place, engine):
    """Return the servers' pod: each is one static program, and one more container fills them."""
    mounts = [{"name": "srv", "mountPath": "/srv", "readOnly": True}, {"name": "data", "mountPath": "/data"}]
    keys = {
        "ROOT_ACCESS_KEY": place.keys["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_KEY": place.keys["AWS_SECRET_ACCESS_KEY"],
    }

    def container(name, image, command, **more):
        env = [{"name": k, "value": v} for k, v in {**keys, **more.pop("env", {})}.items()]
        small = {"requests": {"cpu": "10m", "memory": "64Mi"}}
        start = {"securityContext": RESTRICTED, "volumeMounts": mounts, "resources": small}
        return {"name": name, "image": image, "env": env, **command, **start, **more}

    tls = ["--port", ":7070", "--cert", "/srv/tls.crt", "--key", "/srv/tls.key", "--quiet"]
    python = ["/opt/slipway/bin/python", "/srv/push.py", "/models/SmolLM2-135M-Instruct.Q4_1.gguf"]
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"fsGroup": 65532},
        "containers": [
            container("oci", servers.image_of("registry"), {"args": ["serve", "/srv/config.yml"]},
                      env={"OTEL_TRACES_EXPORTER": "none"}),
            container("s3", servers.image_of("versitygw"),
                      {"args": [*tls, "posix", "--sidecar", "/data/meta", "/data/s3"]}),
            container("push", engine, {"command": [*python, "/srv/ca.crt"]},
                      env={"OCI_USER": OCI_USER, "OCI_PASSWORD": OCI_PASSWORD},
                      readinessProbe={"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}),
        ],
        "initContainers": [
            container("folders", engine, {"command": ["/opt/slipway/bin/python", "-c",
                      "import os; [os.mkdir(f'/data/{n}') for n in ('meta', 's3', 'registry')]"]}),
        ],
        "volumes": [
            {"name": "srv", "secret": {"secretName": "stores", "defaultMode": 0o440}},
            {"name": "data", "emptyDir": {}},
        ],
    }  # fmt: skip


@pytest.fixture
def llm_class(kube, namespace, stores):
    """A class that leads s3:// to the store and trusts the authority."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    network = {
        "s3Endpoint": f"https://{stores.host}:7070",
        "caBundle": {"configMapName": "trust"},
    }
    spec = {"allowedNamespaces": [namespace], "network": network}
    kube.apply(
        {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMClass", "metadata": {"name": name}, "spec": spec},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trust", "namespace": namespace},
         "data": {"ca.crt": stores.authority}},
    )  # fmt: skip
    yield name
    kube("delete", "llmclasses.slipway.dev", name, "--ignore-not-found")


@pytest.fixture
def secret_values():
    """Every value that a test put into a Secret."""
    return []


@pytest.fixture
def apply(kube, images, operator, namespace, llm_class, secret_values):
    def apply(name, source, keys, cache=None, **spec):
        secret_values.extend(keys.values())
        meta = {"name": name, "namespace": namespace}
        model = {"source": source, "credentials": {"secretName": name}, **({"cache": cache} if cache else {})}
        body = {
            "className": llm_class,
            "model": model,
            "engine": {"image": images["engine"]["ref"]},
            "rollout": {"drainSeconds": 0, "maxSurge": 0},
            "podTemplate": {"resources": RESOURCES},
            **spec,
        }
        kube.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": keys},
            {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": body},
        )
        return Space(kube, namespace, "")

    return apply


@pytest.fixture
def nothing_told(kube, operator, namespace, secret_values):
    """Afterwards: no value of a Secret is in anything that can be read without the right to read Secrets."""
    yield
    text = readable(kube, namespace, operator)
    assert "slipway" in text
    for value in secret_values:
        for spelled in (value, quote(value, safe=""), base64.b64encode(value.encode()).decode()):
            assert spelled not in text, (
                f"a value of a Secret was written: {text[text.index(spelled) - 300 :][:400]}"
            )


def readable(kube, namespace, operator):
    """Return what a namespace's objects and logs say, and the operator's log."""
    told = [kube("-n", namespace, "get", READ, "-o", "json", "--show-managed-fields")]
    for where in (namespace, operator):
        for pod in kube("-n", where, "get", "pods", json=True)["items"]:
            for more in ([], ["--previous"]):
                for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
                    words = ["logs", pod["metadata"]["name"], "-c", container["name"], *more]
                    try:
                        told.append(kube("-n", where, *words))
                    except KubectlError as error:
                        told.append(str(error))  # it did not start, or only once
    return "\n".join(told)


def answer_of(kube, namespace, name):
    """Ask the engine in its own pod; return its answer."""
    selector = f"slipway.dev/deployment={name}"
    pod = kube("-n", namespace, "get", "pods", "-l", selector, json=True)["items"][0]["metadata"]["name"]
    command = ["/opt/slipway/bin/python", "-c", ASK, json.dumps({"model": name, **QUESTION})]
    return json.loads(kube("-n", namespace, "exec", pod, "-c", "engine", "--", *command))


@pytest.mark.usefixtures("nothing_told")
def test_a_model_out_of_a_bucket_serves(kube, cluster, namespace, stores, apply):
    with shared_volume(kube, cluster, namespace) as cache:
        space = apply("bucket", stores.s3, stores.keys, cache=cache)
        space.told("Ready", "bucket", timeout=300)
        model = space.status("bucket")["model"]
        assert len(model["commit"]) == 64
        claim = kube.get("persistentvolumeclaim", model["claim"], namespace)
        assert "slipway.dev/filled" in claim["metadata"]["annotations"]
        answer = answer_of(kube, namespace, "bucket")
        assert 0 < answer["usage"]["completion_tokens"] <= 4
        pods = kube("-n", namespace, "get", "pods", "-l", "slipway.dev/deployment=bucket", json=True)
        assert "AWS_" not in json.dumps(pods), "the keys are the fetch Job's alone"


@pytest.mark.usefixtures("nothing_told")
def test_a_model_out_of_a_registry_serves(kube, namespace, stores, apply):
    token = {"token": f"{OCI_USER}:{OCI_PASSWORD}"}
    space = apply("artifact", f"{stores.oci}:{push.TAG}", token)
    space.told("Ready", "artifact", timeout=300)
    model = space.status("artifact")["model"]
    assert model["license"] == "Apache-2.0"
    assert len(model["commit"]) == 64
    assert 0 < answer_of(kube, namespace, "artifact")["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize(
    ("scheme", "path", "wrong", "reason", "says"),
    [
        ("s3", "", "AWS_SECRET_ACCESS_KEY", "ModelAccessDenied", "SignatureDoesNotMatch"),
        ("s3", "", "AWS_ACCESS_KEY_ID", "ModelAccessDenied", "XAdminUserNotFound"),
        ("s3", "s3://models/none", "", "ModelNotFound", "has no files"),
        ("s3", "s3://no-such-bucket/none", "", "ModelNotFound", "does not exist"),
        ("oci", "", "token", "ModelAccessDenied", "is not open to these credentials (HTTP 401)"),
        ("oci", ":none", "", "ModelNotFound", "has no none; check repository and tag"),
    ],
)
@pytest.mark.usefixtures("nothing_told")
def test_what_cannot_be_read_is_said(kube, namespace, stores, apply, scheme, path, wrong, reason, says):
    keys = dict(stores.keys) if scheme == "s3" else {"token": f"{OCI_USER}:{OCI_PASSWORD}"}
    if wrong:
        keys[wrong] = f"{OCI_USER}:{secrets.token_hex(16)}" if wrong == "token" else secrets.token_hex(16)
    source = (path or stores.s3) if scheme == "s3" else f"{stores.oci}{path or f':{push.TAG}'}"
    space = apply("refused", source, keys)
    assert says in space.told(reason, "refused")
    assert kube("-n", namespace, "get", "deployments", json=True)["items"] == []


def test_an_image_volume_that_the_api_server_would_drop_is_said(kube, namespace, stores, apply):
    if keeps_image_volumes(kube):
        pytest.skip("this cluster has image volumes, so nothing is dropped")
    token = {"token": f"{OCI_USER}:{OCI_PASSWORD}"}
    space = apply("mounted", f"{stores.oci}:{push.TAG}", token, cache={"mode": "Image"})
    message = space.told("ImageVolumesMissing", "mounted")
    assert "write model.cache.mode Shared or PerReplica" in message
    assert kube("-n", namespace, "get", "deployments", json=True)["items"] == []


def keeps_image_volumes(kube):
    """Return whether the API server stores a pod's image volume, by what it says it would store."""
    volumes = [{"name": "model", "image": {"reference": "registry.invalid/m:1"}}]
    container = {"name": "c", "image": "registry.invalid/c:1", "securityContext": RESTRICTED}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": "default"}}
    pod["spec"] = {"containers": [container], "volumes": volumes}
    stored = kube("create", "--dry-run=server", "-f", "-", stdin=pod, json=True)
    return any("image" in volume for volume in stored["spec"].get("volumes", []))


CRASH = """
import os, sys
token = os.environ["TOKEN"]
url, header = f"https://user:{token}@hub.invalid", f"Authorization: Bearer {token}"
print(f"RuntimeError: 401 for {url} with {header}", file=sys.stderr)
sys.exit(1)
"""


def test_what_a_crashed_engine_says_is_told_without_its_token(kube, images, operator, namespace):
    token = f"hf_{secrets.token_hex(16)}"
    meta = {"name": "crash", "namespace": namespace}
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "crash", "key": "token"}}}
    engine = {"command": ["/opt/slipway/bin/python"], "args": ["-c", CRASH]}
    body = {
        "model": {"source": "file:///models/any"},
        "engine": {"runtime": "custom", "image": images["engine"]["ref"], "custom": engine},
        "podTemplate": {"env": [secret], "resources": {"limits": {"memory": "128Mi"}}},
    }
    kube.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"token": token}},
        {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMDeployment", "metadata": meta, "spec": body},
    )
    assert "RuntimeError: 401" in Space(kube, namespace, "").told("EngineCrashed", "crash")
    ours = kube("-n", namespace, "get", "llmdeployments,controllerrevisions,deployments,events", "-o", "json")
    logs = kube("-n", operator, "logs", "-l", "app.kubernetes.io/name=slipway-operator", "--tail=-1")
    assert "crash" in ours
    assert token not in ours + logs
