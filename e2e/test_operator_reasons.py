"""What can go wrong around a pod: each has its own reason and sentence on the object, and its cure.

None of these pods gets as far as running an engine, so all of them are quick.
"""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import subprocess
import threading

import pytest

from e2e.conftest import tool

REMOVE_OVERLAY = '[{"op": "remove", "path": "/spec/podTemplate"}]'
SMALL = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}


def llm(name, **spec):
    pod = {"resources": SMALL, **spec.pop("podTemplate", {})}
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"source": "file:///models/none.gguf"}, "podTemplate": pod, **spec},
    }


@pytest.fixture
def told(kube, namespace, wait_for):
    """Wait until the object's Ready condition has a reason; return its sentence."""

    def told(name, reason, timeout=90):
        def probe():
            obj = kube.get("llmdep", name, namespace)
            conditions = {c["type"]: c for c in (obj.get("status") or {}).get("conditions", [])}
            ready = conditions.get("Ready", {})
            seen.append(f"{ready.get('reason')}: {ready.get('message')}")
            return ready if ready.get("reason") == reason else None

        seen = []
        try:
            condition = wait_for(f"reason {reason} of {name}", probe, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; told instead: {list(dict.fromkeys(seen))}") from None
        assert condition["status"] == (
            "True" if reason in ("Ready", "Suspended", "ScaledToZero") else "False"
        )
        return condition["message"]

    return told


@pytest.fixture
def apply(kube, namespace):
    def apply(*objects):
        for obj in objects:
            obj["metadata"]["namespace"] = namespace
        kube.apply(*objects)

    return apply


def test_an_image_that_cannot_be_pulled(kube, operator, namespace, apply, told):
    apply(llm("pull", engine={"image": "registry.invalid/no/such:1"}))
    message = told("pull", "ImagePullFailed")
    assert "registry.invalid/no/such:1" in message
    assert f"run `kubectl -n {namespace} describe pod pull-" in message


def test_an_image_name_that_is_none(kube, operator, apply, told):
    apply(llm("name", engine={"image": "NOT A NAME"}))
    assert "invalid reference format" in told("name", "ImagePullFailed")


def test_a_pull_secret_that_is_missing(kube, operator, namespace, apply, told):
    image = {"image": "registry.invalid/no/such:1"}
    apply(llm("secret", engine=image, podTemplate={"imagePullSecrets": ["nosuch"]}))
    message = told("secret", "PullSecretMissing")
    assert "image pull secret nosuch does not exist" in message
    assert f"kubectl -n {namespace} get secrets" in message


def test_a_token_that_is_missing(kube, operator, apply, told):
    model = {"source": "hf://some/model", "credentials": {"secretName": "hub"}}
    apply(llm("token", model=model))
    assert 'secret "hub" not found' in told("token", "ConfigMissing")


def test_a_claim_that_is_missing(kube, operator, apply, told):
    apply(llm("claim", model={"source": "pvc://nowhere/model"}))
    assert "PersistentVolumeClaim nowhere does not exist" in told("claim", "ConfigMissing")


def test_a_service_account_that_is_missing_and_then_made(kube, operator, namespace, apply, told):
    apply(llm("account", podTemplate={"serviceAccountName": "runner"}, replicas=1))
    assert 'serviceaccount "runner" not found' in told("account", "ConfigMissing")
    kube("-n", namespace, "patch", "llmdep", "account", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    assert "Suspended" in told("account", "Suspended")


def test_no_node_that_fits(kube, operator, apply, told):
    apply(llm("node", podTemplate={"nodeSelector": {"disk": "none-such"}}))
    assert "didn't match Pod's node affinity/selector" in told("node", "Unschedulable")
    apply(llm("gpu", accelerator={"type": "nvidia-l4-24gb"}))
    told("gpu", "Unschedulable")


def test_an_accelerator_nobody_knows(kube, operator, apply, told):
    apply(llm("zx", accelerator={"type": "zx81"}))
    assert "write one of cpu, " in told("zx", "UnknownAccelerator")


@pytest.mark.parametrize(
    ("overlay", "says"),
    [
        (
            {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}},
            "must be less than or equal to memory limit of 1Gi",
        ),
        ({"affinity": {"podAfinity": {}}}, "podAfinity: field not declared in schema"),
        ({"labels": {"not a label!": "x"}}, "name part must consist of alphanumeric characters"),
    ],
    ids=["resources", "affinity", "labels"],
)
def test_what_only_a_pod_can_refuse(kube, operator, namespace, apply, told, overlay, says):
    apply(llm("wrong", podTemplate=overlay, suspend=True))
    message = told("wrong", "InvalidSpec")
    assert says in message
    assert f"run `kubectl -n {namespace} edit llmdep wrong`" in message
    kube("-n", namespace, "patch", "llmdep", "wrong", "--type=json", "-p", REMOVE_OVERLAY)
    told("wrong", "Suspended")


def test_a_resource_quota(kube, operator, namespace, apply, told):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight"}}
    apply({**quota, "spec": {"hard": {"requests.memory": "1Mi"}}})
    apply(llm("quota"))
    message = told("quota", "QuotaExceeded")
    assert "exceeded quota: tight, requested: requests.memory=64Mi" in message
    assert f"kubectl -n {namespace} describe resourcequota" in message
    kube("-n", namespace, "delete", "resourcequota", "tight")
    kube("-n", namespace, "patch", "llmdep", "quota", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    told("quota", "Suspended")


def test_a_limit_range(kube, operator, namespace, apply, told):
    limits = {"limits": [{"type": "Container", "max": {"memory": "1Mi"}}]}
    apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "tight"}, "spec": limits})
    apply(llm("limit"))
    message = told("limit", "LimitRangeViolated")
    assert "maximum memory usage per Container is 1Mi, but limit is 64Mi" in message
    assert f"kubectl -n {namespace} describe limitrange" in message


def test_pod_security(kube, operator, namespace, apply, told, wait_for):
    """Our own pods pass the restricted level; one that somebody adds a sidecar to is refused, and told."""
    apply(llm("security", replicas=0))
    told("security", "ScaledToZero")
    selected = ("get", "deployments", "-l", "slipway.dev/deployment=security", "-o", "name")
    deployment = wait_for("the Deployment", lambda: kube("-n", namespace, *selected).strip())
    sidecar = {"name": "sidecar", "image": "mesh:1", "securityContext": {"privileged": True}}
    patch = {"spec": {"template": {"spec": {"containers": [sidecar]}}}}
    kube("-n", namespace, "patch", deployment, "--type=strategic", "-p", json.dumps(patch))
    kube("-n", namespace, "patch", "llmdep", "security", "--type=merge", "-p", '{"spec":{"replicas":1}}')
    message = told("security", "PodSecurityDenied")
    assert 'violates PodSecurity "restricted' in message
    assert f"kubectl get namespace {namespace} --show-labels" in message


def test_a_policy(kube, operator, namespace, apply, told, wait_for):
    name = f"{namespace}-policy"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    group = "admissionregistration.k8s.io/v1"
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    kube.apply(
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": rules},
                "validations": [{"expression": "false", "message": "images must be signed"}],
            },
        },
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": here},
            },
        },
    )
    try:
        wait_for("the policy to be in force", lambda: refused(kube, namespace), 60)
        apply(llm("policy"))
        assert "images must be signed" in told("policy", "AdmissionDenied")
    finally:
        kube("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name)


class Webhook(http.server.BaseHTTPRequestHandler):
    """Refuses every pod and allows everything else."""

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = review["request"]
        answer = {"uid": asked["uid"], "allowed": asked["kind"]["kind"] != "Pod"}
        answer["status"] = {"message": "the image is not signed"}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def webhook(kube, cluster, namespace, tmp_path):
    """A webhook of this namespace alone; yields the function that makes it fall silent."""
    if cluster.provider != "local":
        pytest.skip(f"the API server of the provider {cluster.provider} may not reach this machine")
    host = json.loads(tool("status", "-o", "json"))["addresses"]["host"]
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=webhook",
    ]
    files = ["-addext", f"subjectAltName=IP:{host}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *files], check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer((host, 0), Webhook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    rules = [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]},
    ]
    bundle = base64.b64encode(certificate.read_bytes()).decode()
    hook = {
        "name": "images.example.com",
        "clientConfig": {"url": f"https://{host}:{server.server_port}/", "caBundle": bundle},
        "rules": rules,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "timeoutSeconds": 5,
    }
    kind = "ValidatingWebhookConfiguration"
    meta = {"name": f"{namespace}-webhook"}

    def silence():
        server.shutdown()
        server.server_close()
        thread.join()

    kube.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": meta,
            "webhooks": [hook],
        }
    )
    try:
        yield silence
    finally:
        kube("delete", kind, meta["name"], "--ignore-not-found")
        if thread.is_alive():
            silence()


def test_a_webhook_that_refuses_and_one_that_does_not_answer(
    kube, operator, namespace, apply, told, webhook, wait_for
):
    wait_for("the webhook to be in force", lambda: refused(kube, namespace, "is not signed"), 60)
    apply(llm("hook"))
    message = told("hook", "AdmissionDenied")
    assert 'admission webhook "images.example.com" denied the request: the image is not signed' in message
    assert "kubectl get validatingwebhookconfigurations" in message
    webhook()
    apply(llm("silent", suspend=True))
    message = told("silent", "AdmissionDenied")
    assert 'failed calling webhook "images.example.com"' in message
    kube("delete", "validatingwebhookconfiguration", f"{namespace}-webhook")
    told("silent", "Suspended")


def refused(kube, namespace, because="images must be signed"):
    """Return whether a pod would be refused, without making one."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    context["seccompProfile"] = {"type": "RuntimeDefault"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {"containers": [{"name": "c", "image": "none:1", "securityContext": context}]},
    }
    try:
        kube("create", "--dry-run=server", "-f", "-", stdin=pod)
    except RuntimeError as error:
        return because in str(error)
    return False


def test_a_name_that_somebody_else_has(kube, operator, namespace, apply, told):
    stranger = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken", "labels": {"mine": "yes"}},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "mine"}},
    }
    apply(stranger)
    apply(llm("taken", suspend=True))
    assert "Service taken already exists and is controlled by nobody" in told("taken", "ChildConflict")
    untouched = kube.get("service", "taken", namespace)
    assert untouched["spec"]["selector"] == {"app": "mine"}
    assert untouched["metadata"]["labels"] == {"mine": "yes"}
    kube("-n", namespace, "delete", "service", "taken")
    told("taken", "Suspended", timeout=180)
