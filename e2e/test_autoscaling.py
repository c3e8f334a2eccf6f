"""Autoscaling in a real cluster: engine pods on CPUs, load that comes and goes, zero, a request that wakes.

The load comes from a pod inside the cluster and goes through the gateway, and every failed request counts.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from e2e import monitoring

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "slipway"
NAME = "elastic"
WHO = "slipway.dev/deployment=elastic"
pytestmark = pytest.mark.timeout(900)
QUICK = [{"type": "Percent", "value": 100, "periodSeconds": 15}]


@pytest.fixture(scope="module")
def namespace(kube):
    name = "e2e-autoscaling"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "slipway.dev/e2e": "true"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    kube("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def front(kube, helm, operator, images):
    """The operator's release with a gateway, which the operator asks for held requests."""
    common = ["upgrade", "slipway", str(CHART), "--namespace", operator, "--reuse-values"]
    helm(
        *common,
        *("--set", f"gateway.enabled=true,gateway.replicas=1,gateway.image={images['gateway']['ref']}"),
        *("--set", "gateway.authMode=none,gateway.drainSeconds=30", "--wait", "--timeout", "5m"),
    )
    yield operator
    helm(*common, "--set", "gateway.enabled=false", "--wait", "--timeout", "5m")


@pytest.fixture(scope="module")
def elastic(kube, front, namespace):
    """An object that grows to two replicas of two requests each, and shrinks soon."""
    obj = yaml.safe_load((ROOT / "examples" / "smollm2.yaml").read_text())
    obj["metadata"] = {"name": NAME, "namespace": namespace}
    obj["spec"]["engine"] = {"maxModelLen": 512, "maxNumSeqs": 2}
    obj["spec"]["rollout"] = {"drainSeconds": 60}
    obj["spec"]["podTemplate"]["resources"]["requests"]["cpu"] = "100m"
    obj["spec"]["autoscaling"] = {
        "maxReplicas": 2,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 20, "policies": QUICK}},
    }
    kube.apply(obj)
    kube("wait", "-n", namespace, f"llmdep/{NAME}", "--for=condition=Ready", "--timeout=240s")
    return obj


CLIENT = """
import json, os, sys, threading, time, urllib.request
url, model = os.environ["URL"], os.environ["MODEL"]
heavy, light = time.time() + float(os.environ["HEAVY"]), time.time() + float(os.environ["LIGHT"])
good, bad, lock = 0, [], threading.Lock()

def ask(tokens):
    global good
    body = {"model": model, "messages": [{"role": "user", "content": "Count."}], "max_tokens": tokens,
            "stream": True, "ignore_eos": True}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=180) as response:
            text = response.read().decode()
        if not text.rstrip().endswith("[DONE]"):
            raise ValueError("a stream that broke off: " + text[-200:])
        with lock:
            good += 1
    except Exception as error:
        with lock:
            bad.append(f"{time.strftime('%X')} {error!r} {getattr(error, 'fp', None) and error.read()[:200]}")

def run(until, tokens, pause):
    while time.time() < until:
        ask(tokens)
        time.sleep(pause)

threads = [threading.Thread(target=run, args=(heavy, 96, 0)) for _ in range(5)]
threads.append(threading.Thread(target=run, args=(light, 8, 1.0)))
print("begun", flush=True)
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"good": good, "bad": bad}))
"""


def test_load_brings_a_replica_and_its_absence_takes_it_away_and_no_request_fails(
    kube, front, elastic, namespace, images, wait_for
):
    env = {
        "URL": f"http://slipway-gateway.{front}/v1/chat/completions",
        "MODEL": f"{namespace}/{NAME}",
        "HEAVY": "70",
        "LIGHT": "180",
    }
    container = {
        "name": "client",
        "image": images["gateway"]["ref"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", CLIENT],
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }
    pod = {"metadata": {"name": "load", "namespace": front}, "spec": {"restartPolicy": "Never"}}
    pod["spec"]["containers"] = [container]
    kube.apply({"apiVersion": "v1", "kind": "Pod", **pod})
    try:
        wait_for("two replicas", lambda: replicas(kube, namespace) == 2, 150)
        wait_for("the reason", lambda: "ScaledUp" in decision(kube, namespace)["reason"], 30)
        assert "requests in flight" in decision(kube, namespace)["reason"]
        wait_for("both to serve", lambda: status(kube, namespace).get("readyReplicas") == 2, 200)
        wait_for("one replica again", lambda: replicas(kube, namespace) == 1, 260)
        wait_for("the reason", lambda: "ScaledDown" in decision(kube, namespace)["reason"], 30)
        wait_for("the load to end", lambda: phase(kube, front, "load") in ("Succeeded", "Failed"), 300)
        told = json.loads(kube("logs", "-n", front, "load").strip().splitlines()[-1])
    finally:
        kube("delete", "pod", "-n", front, "load", "--ignore-not-found", "--wait=false")
    print(f"requests: {told['good']} answered, {len(told['bad'])} failed", flush=True)
    assert told["good"] > 20
    assert told["bad"] == []
    reasons = {event["reason"] for event in events(kube, namespace)}
    assert {"ScaledUp", "ScaledDown"} <= reasons


def test_the_object_says_why_and_its_spec_is_left_alone(kube, elastic, namespace):
    shown = ["-n", namespace, "--show-managed-fields"]
    obj = kube("get", "llmdep", NAME, *shown, json=True)
    active = next(c for c in obj["status"]["conditions"] if c["type"] == "AutoscalingActive")
    assert (active["status"], active["reason"]) == ("True", "ValidMetricFound")
    assert obj["spec"]["replicas"] == elastic["spec"]["replicas"]
    managers = {
        entry["manager"] for entry in obj["metadata"]["managedFields"] if not entry.get("subresource")
    }
    assert "slipway-operator" not in managers


def test_another_scaler_has_no_effect_and_is_named(kube, elastic, namespace, wait_for):
    kube("scale", "-n", namespace, f"llmdep/{NAME}", "--replicas=2")
    found = wait_for("the conflict to be told", lambda: condition(kube, namespace, "ConflictingScaler"), 90)
    assert "kubectl" in found["message"]
    assert replicas(kube, namespace) == 1


def test_to_zero_and_woken_by_a_request_through_the_gateway(
    kube, cluster, front, elastic, namespace, wait_for
):
    spec = {"autoscaling": {"minReplicas": 0, "idleSeconds": 60}, "replicas": 1}
    kube("patch", "-n", namespace, f"llmdep/{NAME}", "--type=merge", "-p", json.dumps({"spec": spec}))
    wait_for("zero", lambda: replicas(kube, namespace) == 0 and not pods(kube, namespace), 240)
    wait_for("Ready at zero", lambda: condition(kube, namespace, "ScaledToZero", "Ready"), 60)
    assert condition(kube, namespace, "ScaledToZero", "Ready")["status"] == "True"
    command = [cluster.kubectl, "-n", front, "port-forward", "service/slipway-gateway", ":80"]
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, text=True) as process:
        port = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())[1]
        answers = []
        asking = threading.Thread(target=lambda: answers.append(ask(port, f"{namespace}/{NAME}")))
        began = time.monotonic()
        asking.start()
        try:
            wait_for("a replica to be asked for", lambda: replicas(kube, namespace) == 1, 30, 0.1)
            print(f"first hold to replicas: {time.monotonic() - began:.2f} s", flush=True)
            assert time.monotonic() - began < 5
            asking.join(240)
        finally:
            process.terminate()
    print(f"answered after {time.monotonic() - began:.1f} s", flush=True)
    assert answers
    assert answers[0]["choices"][0]["message"]["content"]
    assert "Woken" in {event["reason"] for event in events(kube, namespace)}


@pytest.fixture(scope="module")
def external_metrics(kube, images):
    """A Prometheus, and its values as external metrics: one that always asks for two replicas."""
    monitoring.install(kube, images["gateway"]["ref"], {"constant": "vector(8)"})
    yield
    monitoring.uninstall(kube)


def hpa(namespace):
    """An HPA on the object's scale subresource that wants two replicas at 4 each."""
    metric = {"name": "constant", "selector": {"matchLabels": {"deployment": NAME}}}
    target = {"type": "AverageValue", "averageValue": "4"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMDeployment", "name": NAME},
            "minReplicas": 1,
            "maxReplicas": 2,
            "metrics": [{"type": "External", "external": {"metric": metric, "target": target}}],
        },
    }


def test_an_hpa_in_place_of_ours_drives_the_object_and_beside_ours_it_is_named(
    kube, elastic, external_metrics, namespace, wait_for
):
    patch = {"spec": {"autoscaling": None, "replicas": 1}}
    kube("patch", "-n", namespace, f"llmdep/{NAME}", "--type=merge", "-p", json.dumps(patch))
    wait_for("one replica", lambda: replicas(kube, namespace) == 1, 60)
    kube.apply(hpa(namespace))
    try:
        wait_for("two replicas, by the HPA", lambda: replicas(kube, namespace) == 2, 120)
        wait_for("no word of ours", lambda: condition(kube, namespace, "ConflictingScaler") is None, 30)
        assert "autoscaling" not in status(kube, namespace)
        assert written_by(kube, namespace) == {"kube-controller-manager"}
        patch = {"spec": {"autoscaling": {"maxReplicas": 2}}}
        kube("patch", "-n", namespace, f"llmdep/{NAME}", "--type=merge", "-p", json.dumps(patch))
        told = wait_for("the conflict", lambda: condition(kube, namespace, "ConflictingScaler"), 120)
        assert "kube-controller-manager" in told["message"]
        assert "delete one of the two autoscalers" in told["message"]
        assert written_by(kube, namespace) == {"kube-controller-manager"}  # ours never wrote the field
    finally:
        kube("delete", "hpa", "-n", namespace, NAME, "--ignore-not-found")


def test_without_autoscaling_the_scale_subresource_decides(kube, elastic, namespace, wait_for):
    patch = {"spec": {"autoscaling": None, "replicas": 1}}
    kube("patch", "-n", namespace, f"llmdep/{NAME}", "--type=merge", "-p", json.dumps(patch))
    kube("scale", "-n", namespace, f"llmdep/{NAME}", "--replicas=2")
    wait_for("two replicas", lambda: replicas(kube, namespace) == 2, 60)
    wait_for("no word of the autoscaler", lambda: "autoscaling" not in status(kube, namespace), 60)


def ask(port, model):
    body = {"model": model, "messages": [{"role": "user", "content": "Say a word."}], "max_tokens": 4}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=240) as response:
        return json.load(response)


def written_by(kube, namespace):
    """Return who wrote spec.replicas through the scale subresource."""
    found = kube("get", "llmdep", NAME, "-n", namespace, "--show-managed-fields", json=True)["metadata"]
    entries = [entry for entry in found["managedFields"] if entry.get("subresource") == "scale"]
    return {entry["manager"] for entry in entries if "f:replicas" in entry["fieldsV1"].get("f:spec", {})}


def status(kube, namespace):
    return kube.get("llmdep", NAME, namespace)["status"]


def decision(kube, namespace):
    return status(kube, namespace)["autoscaling"]["lastDecisions"][0]


def condition(kube, namespace, reason, kind="AutoscalingActive"):
    found = status(kube, namespace)["conditions"]
    return next((c for c in found if (c["type"], c["reason"]) == (kind, reason)), None)


def replicas(kube, namespace):
    found = kube("get", "deployments", "-n", namespace, "-l", WHO, json=True)["items"]
    return sum(each["spec"]["replicas"] for each in found)


def pods(kube, namespace):
    return kube("get", "pods", "-n", namespace, "-l", WHO, json=True)["items"]


def events(kube, namespace):
    found = kube("get", "events", "-n", namespace, json=True)["items"]
    return [each for each in found if each["involvedObject"]["kind"] == "LLMDeployment"]


def phase(kube, namespace, name):
    return kube.get("pod", name, namespace)["status"]["phase"]
