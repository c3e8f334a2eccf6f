"""`kubectl slipway` as a user runs it, found by kubectl: on a deployment that serves, and one that cannot."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "smollm2.yaml"


@pytest.fixture(scope="module")
def slipway(cluster, tmp_path_factory):
    """Run `kubectl slipway ...`: the plugin on the PATH by the name that kubectl looks for."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "kubectl-slipway"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m slipway_operator.plugin.main "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / "kubectl").symlink_to(cluster.kubectl)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(*arguments: str, status: int = 0, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", "slipway", *arguments],
            capture_output=True, text=True, input=stdin, timeout=170, env={**cluster.env, "PATH": path},
        )  # fmt: skip
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def namespace(kube):
    name = "e2e-plugin"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "slipway.dev/e2e": "true"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    kube("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def served(kube, operator, namespace, slipway):
    """A deployment that serves; planned first, as its user would."""
    body = yaml.safe_load(EXAMPLE.read_text())
    body["metadata"] = {"name": "smol", "namespace": namespace}
    answer = json.loads(slipway("plan", "-f", "-", "-o", "json", stdin=yaml.safe_dump(body)))
    assert answer[0]["accepted"]
    assert {change["action"] for change in answer[0]["changes"]} == {"create"}
    kube.apply(body)
    kube("wait", "-n", namespace, "llmdep/smol", "--for=condition=Ready", "--timeout=170s")
    return body


def test_plan_of_what_runs_changes_nothing_and_of_an_edit_shows_it(slipway, served) -> None:
    (same,) = json.loads(slipway("plan", "-f", "-", "-o", "json", stdin=yaml.safe_dump(served)))
    assert {change["action"] for change in same["changes"]} == {"unchanged"}
    edited = {**served, "spec": {**served["spec"], "replicas": 2}}
    text = slipway("plan", "-f", "-", stdin=yaml.safe_dump(edited))
    assert "~ change Deployment/smol-" in text
    assert "+  replicas: 2" in text


def test_status_and_why_of_what_serves(slipway, served, namespace) -> None:
    text = slipway("status", "smol", "-n", namespace)
    assert f"✔ {namespace}/smol [Ready]" in text
    assert "1 of 1 ready" in text
    why = json.loads(slipway("why", "smol", "-n", namespace, "-o", "json"))
    assert why["blocked"] is False


def test_chat_bench_top_and_logs_reach_the_model(slipway, served, namespace) -> None:
    answer = slipway(
        "chat", "smol", "-n", namespace, "--temperature", "0", "--max-tokens", "20", "Say hello."
    )
    assert len(answer.split()) >= 2
    figures = json.loads(
        slipway(
            "bench", "smol", "-n", namespace, "-o", "json",
            "--requests", "6", "--concurrency", "3", "--input-words", "20", "--output-tokens", "16",
        )
    )  # fmt: skip
    assert (figures["requests"], figures["failed"]) == (6, 0)
    assert figures["ttftMs"]["p50"] > 0
    (row,) = json.loads(slipway("top", "smol", "-n", namespace, "-o", "json", "--interval", "0.5"))
    assert row["running"] == 0
    assert row["kv_cache_percent"] is not None
    assert "request" in slipway("logs", "smol", "-n", namespace, "--tail", "20")


def test_cost_counts_the_pod(slipway, served, namespace) -> None:
    lines = json.loads(slipway("cost", "-n", namespace, "-o", "json"))
    assert [line["group"] for line in lines] == [f"{namespace}/smol", "total"]
    assert lines[0]["devices"].endswith(" cpu")
    assert slipway("cost", "-n", namespace, "--csv").splitlines()[0].startswith("group,pods,")


def test_why_names_what_blocks_and_the_next_command(kube, slipway, served, namespace) -> None:
    body = {**served, "metadata": {"name": "stuck", "namespace": namespace}}
    body["spec"] = {**served["spec"], "engine": {"image": "localhost/slipway/no-such-image:1"}}
    kube.apply(body)
    reason = "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=ImagePullFailed"
    kube("wait", "-n", namespace, "llmdep/stuck", reason, "--timeout=120s")
    why = json.loads(slipway("why", "stuck", "-n", namespace, "-o", "json", status=3))
    assert why["reason"] == "ImagePullFailed"
    assert "no-such-image" in why["sentence"]
    assert why["command"].startswith("kubectl ")
    slipway("status", "stuck", "-n", namespace, status=3)
    slipway("chat", "stuck", "-n", namespace, "hello", status=1)
    slipway("status", "absent", "-n", namespace, status=1)
    kube("delete", "llmdep", "-n", namespace, "stuck", "--wait=false")


def test_what_render_prints_runs_without_the_operator(kube, slipway, images, namespace) -> None:
    body = yaml.safe_load(EXAMPLE.read_text())
    body["metadata"] = {"name": "plain", "namespace": namespace}
    image = images["engine"]["ref"]
    text = slipway("render", "-f", "-", "--engine-image", image, stdin=yaml.safe_dump(body))
    kube("apply", "-f", "-", stdin=text)
    kube("rollout", "status", "-n", namespace, "deployment/plain", "--timeout=170s")
    kube("delete", "-n", namespace, "deployment,service,pdb", "-l", "slipway.dev/deployment=plain")
