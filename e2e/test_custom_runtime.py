"""`engine.runtime: custom`: a server of one's own, from the object to an answer through its Service."""

from __future__ import annotations

import json

import pytest

# Any server will do; this one is in the engine's image already. `$(...)` is filled in by Kubernetes.
SERVER = """
import http.server, json, os, sys

class Stub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        models = {"data": [{"id": os.environ["SLIPWAY_SERVED_NAME"]}], "argv": sys.argv}
        known = {"/alive": {}, "/v1/models": models}
        body = json.dumps(known.get(self.path, {})).encode()
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Stub).serve_forever()
"""
SMALL = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}


@pytest.fixture
def stub(images, namespace):
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "stub", "namespace": namespace},
        "spec": {
            "model": {"source": "file:///models/any", "servedNames": ["mine"]},
            "engine": {
                "runtime": "custom",
                "image": images["engine"]["ref"],
                "custom": {
                    "command": ["/opt/slipway/bin/python"],
                    "args": ["-c", SERVER, "$(SLIPWAY_PORT)", "$(SLIPWAY_MODEL)", "; echo $(HOME)"],
                    "port": 9001,
                    "healthPath": "/alive",
                    "readyPath": "/v1/models",
                },
            },
            "rollout": {"drainSeconds": 0},
            "podTemplate": {"resources": SMALL},
        },
    }


def test_a_stub_server_answers_through_its_service(kube, operator, namespace, wait_for, stub):
    kube.apply(stub)

    def ready():
        obj = kube.get("llmdep", "stub", namespace)
        conditions = (obj.get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == "Ready" and c["status"] == "True"), None)

    wait_for("the stub to be Ready", ready, 180)
    path = f"/api/v1/namespaces/{namespace}/services/stub:http/proxy/v1/models"
    answer = json.loads(kube("get", "--raw", path))
    assert answer["data"] == [{"id": "mine"}]
    # Each argument came as one: what looks like a shell's is text.
    assert answer["argv"] == ["-c", "9001", "/models/any", "; echo /tmp"]
    policy = kube.get("networkpolicy", "stub", namespace)["spec"]
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == {"slipway.dev/deployment": "stub"}
    assert policy["ingress"][1]["ports"] == [{"port": 9001, "protocol": "TCP"}]
    pod = kube("-n", namespace, "get", "pods", "-l", "slipway.dev/deployment=stub", json=True)["items"][0]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert not any("kube-api-access" in volume["name"] for volume in pod["spec"]["volumes"])


def test_a_runtime_without_an_image_is_refused_with_a_sentence(kube, operator, namespace, wait_for, stub):
    del stub["spec"]["engine"]["image"]
    kube.apply(stub)

    def told():
        conditions = (kube.get("llmdep", "stub", namespace).get("status") or {}).get("conditions") or []
        return next((c["message"] for c in conditions if c["reason"] == "InvalidSpec"), None)

    assert "write the image to run" in wait_for("the refusal", told, 60)
