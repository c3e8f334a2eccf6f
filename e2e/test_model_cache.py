"""A shared model, from a mirror with a private authority behind a proxy to the pods that mount it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from e2e import pki
from e2e.hub import COMMIT, NAME, TOKEN
from e2e.volumes import shared_volume

HERE = Path(__file__).resolve().parent
RESOURCES = {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A private authority, and a certificate of it for the mirror's name."""
    folder = tmp_path_factory.mktemp("pki")
    pki.issue(folder, NAME)
    return folder


@pytest.fixture
def hub(kube, images, namespace, authority, wait_for):
    """The mirror and its proxy, running; returns a function that tells what they were asked."""
    meta = {"name": "hub", "namespace": namespace}
    files = {"hub.py": (HERE / "hub.py").read_text()}
    for name in ("tls.crt", "tls.key"):
        files[name] = (authority / name).read_text()
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    restricted |= {"runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    command = ["/opt/slipway/bin/python", "/srv/hub.py", "/srv/tls.crt", "/srv/tls.key"]
    container = {
        "name": "hub",
        "image": images["engine"]["ref"],
        "command": [*command, "/models/SmolLM2-135M-Instruct.Q4_1.gguf"],
        "securityContext": restricted,
        "volumeMounts": [{"name": "srv", "mountPath": "/srv"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    volumes = [{"name": "srv", "configMap": {"name": "hub"}}]
    ports = [{"name": "proxy", "port": 3128}, {"name": "told", "port": 8080}]
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": files},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "trust", "namespace": namespace},
            "data": {"ca.crt": (authority / "ca.crt").read_text()},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "token", "namespace": namespace},
            "stringData": {"token": TOKEN},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**meta, "labels": {"app": "hub"}},
            "spec": {"containers": [container], "volumes": volumes},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": {"app": "hub"}, "ports": ports},
        },
    )
    kube("-n", namespace, "wait", "pod/hub", "--for=condition=Ready", "--timeout=120s")

    def asked():
        path = f"/api/v1/namespaces/{namespace}/services/hub:told/proxy/"
        return json.loads(kube("get", "--raw", path))

    return asked


@pytest.fixture
def llm_class(kube, namespace):
    """A class that leads every fetch through the proxy to the mirror, and trusts its authority."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    network = {
        "hfEndpoint": f"https://{NAME}",
        "httpsProxy": f"http://hub.{namespace}.svc.cluster.local:3128",
        "caBundle": {"configMapName": "trust"},
    }
    spec = {"allowedNamespaces": [namespace], "network": network}
    kube.apply(
        {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMClass", "metadata": {"name": name}, "spec": spec}
    )
    yield name
    kube("delete", "llmclasses.slipway.dev", name, "--ignore-not-found")


@pytest.fixture
def volume(kube, cluster, namespace):
    with shared_volume(kube, cluster, namespace) as cache:
        yield cache


@pytest.fixture
def apply(kube, images, namespace, llm_class):
    def apply(name, repository, *, cache=None, token=None, **spec):
        credentials = {"credentials": {"secretName": token}} if token else {}
        model = {"source": f"hf://{repository}", **credentials, **({"cache": cache} if cache else {})}
        kube.apply(
            {
                "apiVersion": "slipway.dev/v1alpha1",
                "kind": "LLMDeployment",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "className": llm_class,
                    "model": model,
                    "engine": {"image": images["engine"]["ref"]},
                    "rollout": {"drainSeconds": 0, "maxSurge": 0},
                    "podTemplate": {"resources": RESOURCES},
                    **spec,
                },
            }
        )

    return apply


@pytest.fixture
def told(kube, namespace, wait_for):
    """Wait until the object's Ready condition has a reason; return the whole object."""

    def told(name, reason, timeout=480):
        def probe():
            obj = kube.get("llmdep", name, namespace)
            conditions = {c["type"]: c for c in (obj.get("status") or {}).get("conditions", [])}
            seen.append(str(conditions.get("Ready", {}).get("message")))
            return obj if conditions.get("Ready", {}).get("reason") == reason else None

        seen = []
        try:
            return wait_for(f"reason {reason}", probe, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; told instead: {list(dict.fromkeys(seen))}") from None

    return told


def downloads(asked):
    """Return the requests for the whole file, or for all the rest of it: headers are read in pieces."""
    return [line for line in asked if "/resolve/" in line and ("bytes=" not in line or line.endswith("-"))]


def test_a_model_is_fetched_once_for_all(
    kube, operator, namespace, wait_for, hub, volume, apply, told, cluster
):
    several = cluster.provider == "local"
    apply("one", "team/private", cache=volume, token="token", replicas=2 if several else 1)
    obj = told("one", "Ready")
    model = obj["status"]["model"]
    assert model["commit"] == COMMIT
    assert model["license"] == "apache-2.0"
    assert model["digest"].startswith("sha256:")
    assert obj["status"]["plan"]["memory"]["weights"] > 0, "planned from the headers"
    claim = kube.get("persistentvolumeclaim", model["claim"], namespace)
    assert "slipway.dev/filled" in claim["metadata"]["annotations"]
    assert "ownerReferences" not in claim["metadata"]
    first = hub()
    assert len(downloads(first)) == 1, first
    assert f"CONNECT {NAME}:443" in first, "through the proxy, which alone knows the name"

    pods = kube("-n", namespace, "get", "pods", "-l", "slipway.dev/deployment=one", json=True)["items"]
    assert len(pods) == (2 if several else 1)
    for pod in pods:
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        assert volumes["model"]["persistentVolumeClaim"] == {"claimName": model["claim"], "readOnly": True}
        assert "HF_TOKEN" not in json.dumps(pod), "the token is the fetch's alone"
    answer = json.loads(
        kube("get", "--raw", f"/api/v1/namespaces/{namespace}/services/one:http/proxy/v1/models")
    )
    assert answer["data"][0]["id"] == "one"

    # Another object of the same model and credential mounts the same volume and fetches nothing.
    apply("two", "team/private", cache=volume, token="token")
    assert told("two", "Ready")["status"]["model"]["claim"] == model["claim"]
    assert downloads(hub()) == downloads(first)

    # While one object refers to it, it stays; when the last pod that mounts it is gone, it goes.
    kube("-n", namespace, "delete", "llmdep", "one", "--wait=true")
    assert kube.get("persistentvolumeclaim", model["claim"], namespace) is not None
    kube("-n", namespace, "delete", "llmdep", "two", "--wait=true")

    # The fetch's own ended pod refers to the claim until its Job's time to live of ten minutes is over.
    kube("-n", namespace, "delete", "jobs", "-l", f"slipway.dev/model-cache={model['claim']}")

    def gone():
        claim = kube.get("persistentvolumeclaim", model["claim"], namespace)
        selector = f"slipway.dev/model-cache={model['claim']}"
        pods = kube("-n", namespace, "get", "pods", "-l", selector, json=True)["items"]
        running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        assert claim is not None or not running, "never under a running pod"
        return claim is None

    wait_for("the claim to go", gone, 120)


@pytest.mark.parametrize(
    ("repository", "token", "reason", "says"),
    [
        ("team/none", None, "ModelNotFound", "does not exist, or is private"),
        ("team/private", None, "ModelNotFound", "does not exist, or is private"),
        ("team/gated", "token", "ModelGated", "accept its terms"),
        ("team/open", "nosuch", "ConfigMissing", 'secret "nosuch" not found'),
    ],
)
def test_what_cannot_be_fetched_is_said_before_any_pod_is_made(
    kube, operator, namespace, hub, apply, told, repository, token, reason, says
):
    apply("refused", repository, token=token)
    obj = told("refused", reason)
    message = next(c["message"] for c in obj["status"]["conditions"] if c["type"] == "Ready")
    assert says in message
    assert TOKEN not in json.dumps(obj)
    assert kube("-n", namespace, "get", "deployments", json=True)["items"] == []


def test_each_replica_fetches_for_itself_where_nothing_is_shared(operator, hub, apply, told):
    apply("alone", "team/open", replicas=1)
    assert told("alone", "Ready")["status"]["model"]["commit"] == COMMIT
    assert len(downloads(hub())) == 1


def test_a_volume_of_one_node_is_refused_before_anything_is_scheduled(operator, hub, apply, told):
    apply("spread", "team/open", cache={"mode": "Shared", "accessMode": "ReadWriteOnce"}, replicas=2)
    obj = told("spread", "VolumeNotShareable")
    message = next(c["message"] for c in obj["status"]["conditions"] if c["type"] == "Ready")
    assert "write ReadWriteMany" in message
