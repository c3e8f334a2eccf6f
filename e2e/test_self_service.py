"""Samples that bound what a team may ask for, against the real API server; the chart's values files too."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "examples" / "self-service"
CHART = ROOT / "charts" / "slipway"
FOREIGN = "monitoring.coreos.com"


def objects(name):
    return [obj for obj in yaml.safe_load_all((SAMPLES / name).read_text()) if obj]


def model(name="chat", source="hf://Qwen/Qwen3-0.6B", **spec):
    kind = {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMDeployment"}
    return {
        **kind,
        "metadata": {"name": name},
        "spec": {"model": {"source": source}, "suspend": True, **spec},
    }


@pytest.fixture
def team(kube, operator, namespace, wait_for):
    """A namespace with the samples' limits."""
    (sample,) = objects("namespace.yaml")
    meta = {**sample["metadata"], "name": namespace}
    kube.apply({**sample, "metadata": meta})
    kube.apply(*objects("policy.yaml"))

    def enforced():
        try:
            kube("apply", "-n", namespace, "--dry-run=server", "-f", "-", stdin=model(replicas=5))
        except RuntimeError as error:
            return "at most 4 replicas" in str(error)

    wait_for("the policy is enforced", enforced, timeout=30)
    yield namespace
    for obj in objects("policy.yaml"):
        kube("delete", obj["kind"], obj["metadata"]["name"], "--ignore-not-found")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (model(replicas=5), "at most 4 replicas are allowed in this namespace, and 5 are asked for"),
        (model(autoscaling={"maxReplicas": 9}), "at most 4 replicas are allowed"),
        (
            model(source="hf://meta-llama/Llama-3.1-8B"),
            "models of this namespace come from hf://HuggingFaceTB/",
        ),
        (
            model(engine={"speculative": {"method": "draft", "draftSource": "hf://evil/draft"}}),
            "models of this namespace come from",
        ),
    ],
    ids=["replicas", "autoscaling", "model", "draft"],
)
def test_what_a_team_may_not_ask_for_is_refused_with_a_sentence(kube, team, wrong, sentence):
    with pytest.raises(RuntimeError) as refusal:
        kube("apply", "-n", team, "-f", "-", stdin=wrong)
    assert sentence in str(refusal.value)
    assert kube.get("llmdep", "chat", team) is None


def test_what_it_may_goes_through_and_scaling_is_bounded_too(kube, team):
    kube("apply", "-n", team, "-f", "-", stdin=model(replicas=4))
    kube("scale", "-n", team, "llmdep/chat", "--replicas=2")
    with pytest.raises(RuntimeError, match="at most 4 replicas are allowed in this namespace"):
        kube("scale", "-n", team, "llmdep/chat", "--replicas=5")


def test_the_quota_counts_objects(kube, team, wait_for):
    (quota,) = objects("quota.yaml")
    quota["spec"]["hard"] = {"count/llmdeployments.slipway.dev": "1"}
    kube("apply", "-n", team, "-f", "-", stdin=quota)

    def counted():
        status = kube("get", "resourcequota", "models", "-n", team, json=True).get("status") or {}
        return "count/llmdeployments.slipway.dev" in status.get("hard", {})

    wait_for("the quota is counted", counted, timeout=60)
    kube("apply", "-n", team, "-f", "-", stdin=model())
    with pytest.raises(RuntimeError, match="exceeded quota: models"):
        kube("apply", "-n", team, "-f", "-", stdin=model("second"))


@pytest.mark.parametrize("file", sorted((CHART / "ci").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_api_server_takes_what_the_chart_renders(kube, operator, namespace, file, cluster):
    """All but the Prometheus operator's kinds, whose CRDs are not here."""
    from e2e.cluster.helm import ensure_helm

    words = ["template", "slipway", str(CHART), "--namespace", namespace, "--values", str(file)]
    text = subprocess.run([str(ensure_helm()), *words], check=True, capture_output=True, text=True).stdout
    found = [obj for obj in yaml.safe_load_all(text) if obj and not obj["apiVersion"].startswith(FOREIGN)]
    for obj in found:
        # Roles for served namespaces are tried in this one: theirs are not here.
        if "namespace" in obj["metadata"]:
            obj["metadata"]["namespace"] = namespace
    listed = {"apiVersion": "v1", "kind": "List", "items": found}
    said = kube("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=listed)
    assert said.count("(server dry run)") == len(found)
