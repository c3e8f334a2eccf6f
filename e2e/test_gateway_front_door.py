"""The gateway in a real cluster: a release of its own, real engine pods, keys, a rollout under load."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "slipway"
SYSTEM = "slipway-edge"
MODEL = "smollm2"


@pytest.fixture(scope="module")
def front(kube, helm, operator, images):
    """The namespace of a release that is a gateway and nothing else."""
    helm(
        *("upgrade", "--install", "edge", str(CHART), "--namespace", SYSTEM, "--create-namespace"),
        *("--set", "crds.install=false,operator.replicas=0,rbac.aggregate=false,metrics.service=false"),
        *("--set", f"gateway.enabled=true,gateway.replicas=1,gateway.image={images['gateway']['ref']}"),
        *("--set", "gateway.drainSeconds=60", "--wait", "--timeout", "5m"),
    )
    yield SYSTEM
    helm("uninstall", "edge", "--namespace", SYSTEM, "--wait")
    kube("delete", "namespace", SYSTEM, "--wait=false")


@pytest.fixture(scope="module")
def namespace(kube):
    name = "e2e-gateway"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "slipway.dev/e2e": "true"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    kube("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def model(kube, operator, namespace):
    """A served model of one pod."""
    obj = yaml.safe_load((ROOT / "examples" / "smollm2.yaml").read_text())
    obj["metadata"] = {"name": MODEL, "namespace": namespace}
    obj["spec"]["rollout"] = {**obj["spec"].get("rollout", {}), "drainSeconds": 60}
    kube.apply(obj)
    kube("wait", "-n", namespace, f"llmdep/{MODEL}", "--for=condition=Ready", "--timeout=170s")
    return f"{namespace}/{MODEL}"


@pytest.fixture(scope="module")
def forwarded(cluster, front):
    """A loopback URL of the gateway's Service."""
    command = [cluster.kubectl, "-n", front, "port-forward", "service/edge-gateway", ":80"]
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, text=True) as process:
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        yield f"http://127.0.0.1:{found[1]}"
        process.terminate()


@pytest.fixture(scope="module")
def key(kube, front, namespace):
    """A tenant's key, made the way the documentation says."""
    command = [
        sys.executable,
        "-m",
        "slipway_gateway",
        "key",
        "create",
        "--tenant",
        "e2e",
        "--namespaces",
        namespace,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kube("apply", "-n", front, "-f", "-", stdin=done.stdout)
    return re.search(r"sk-slipway-[\w-]+", done.stderr)[0]


def ask(url, path="/v1/chat/completions", key="", **body):
    """Send a request; return status and body."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = json.dumps(body).encode() if body else None
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + path, data, headers), timeout=120
        ) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def chat(url, key, model, **more):
    messages = [{"role": "user", "content": "Say a word."}]
    return ask(url, key=key, model=model, messages=messages, max_tokens=8, temperature=0, **more)


def test_without_a_tenant_nobody_gets_in(forwarded):
    status, body = ask(forwarded, "/v1/models")
    assert status == 401
    assert "slipway-gateway key create" in body


def test_a_key_opens_its_namespace(forwarded, key, model, wait_for):
    wait_for("the key to be known", lambda: ask(forwarded, "/v1/models", key)[0] == 200, 30)
    names = [entry["id"] for entry in json.loads(ask(forwarded, "/v1/models", key)[1])["data"]]
    assert MODEL in names
    assert ask(forwarded, "/v1/models", "sk-slipway-wrong")[0] == 401


@pytest.mark.parametrize("name", [MODEL, f"e2e-gateway/{MODEL}"])
def test_the_model_answers_by_either_name(forwarded, key, model, name):
    status, body = chat(forwarded, key, name)
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"]


def test_it_streams(forwarded, key, model):
    status, body = chat(forwarded, key, model, stream=True)
    assert status == 200
    assert body.count("data: ") > 3
    assert body.rstrip().endswith("data: [DONE]")


def test_an_unknown_model_is_answered_with_the_names_that_work(forwarded, key, model):
    status, body = chat(forwarded, key, "nope")
    assert status == 404
    assert MODEL in json.loads(body)["error"]["message"]


def test_a_rolling_update_under_load_is_seen_by_nobody(kube, forwarded, key, model, namespace, wait_for):
    results, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            with contextlib.suppress(OSError):
                results.append(chat(forwarded, key, model, stream=True))
                continue
            results.append((0, "the connection failed"))

    clients = [threading.Thread(target=load) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        before = {pod["metadata"]["uid"] for pod in pods(kube, namespace)}
        patch = {"spec": {"rollout": {"restartToken": str(time.time())}}}
        kube("patch", "-n", namespace, f"llmdep/{MODEL}", "--type=merge", "-p", json.dumps(patch))
        wait_for(
            "new pods only",
            lambda: (
                pods(kube, namespace) and not before & {p["metadata"]["uid"] for p in pods(kube, namespace)}
            ),
            240,
        )
    finally:
        stop.set()
        for client in clients:
            client.join()
    bad = [body for status, body in results if status != 200 or not body.rstrip().endswith("data: [DONE]")]
    assert len(results) > 5
    assert not bad, f"{len(bad)} of {len(results)} requests failed, the first with {bad[0][:300]}"


CLIENT = """
import json, os, sys, time, urllib.request
body = {"model": os.environ["MODEL"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["KEY"]}
request = urllib.request.Request(os.environ["URL"], json.dumps(body).encode(), headers)
good, end = 0, time.time() + 45
print("begun", flush=True)
while time.time() < end:
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["choices"]
    good += 1
    time.sleep(0.2)
print("good", good)
"""


def test_it_serves_on_while_the_api_server_restarts(cluster, kube, front, key, model, images, wait_for):
    # A client inside the cluster: a forwarded port goes through the API server.
    env = {"MODEL": model, "KEY": key, "URL": f"http://edge-gateway.{front}/v1/chat/completions"}
    container = {
        "name": "client",
        "image": images["gateway"]["ref"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", CLIENT],
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "client", "namespace": front},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }
    )
    wait_for("the client to begin", lambda: "begun" in client_log(kube, front), 60)
    cluster.restart("kube-apiserver")
    phase = wait_for(
        "the client to end",
        lambda: {kube.get("pod", "client", front)["status"]["phase"]} & {"Succeeded", "Failed"},
        120,
    )
    log = client_log(kube, front)
    assert phase == {"Succeeded"}, log
    assert int(log.split()[-1]) > 5


def client_log(kube, namespace):
    try:
        return kube("logs", "-n", namespace, "client")
    except RuntimeError:
        return ""


def pods(kube, namespace):
    return kube("get", "pods", "-n", namespace, "-l", f"slipway.dev/deployment={MODEL}", json=True)["items"]
