"""Objects as people get them wrong: the API server refuses each with a sentence that says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOOD_MODEL = {"source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"}


def manifest(name="wrong", **spec):
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"model": GOOD_MODEL, **spec},
    }


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (manifest(replicass=1), 'unknown field "spec.replicass"'),
        (manifest(replicas="two"), "must be of type integer"),
        (manifest(replicas=-1), "should be greater than or equal to 0"),
        (manifest(model={}), "spec.model.source: Required value"),
        (manifest(model={"source": ""}), "spec.model.source"),
        (manifest(model={"source": "SmolLM2"}), "model.source must be hf://ORG/NAME"),
        (manifest(model={"source": "file:///a/../etc"}), "model.source must be hf://ORG/NAME"),
        (
            manifest(model={"source": "file:///m", "revision": "main"}),
            "only means something for an hf:// source",
        ),
        (manifest(name="a" * 41), "at most 40 characters"),
        (manifest(name="1st"), "starting with a letter"),
        (manifest(rollout={"maxSurge": 0, "maxUnavailable": 0}), "set one of them to 1"),
        (manifest(podTemplate={"env": [{"name": "A"}]}), "exactly one of value and valueFrom"),
        (manifest(podTemplate={"env": [{"name": "SLIPWAY_A", "value": "x"}]}), "operator's own prefix"),
        (
            manifest(podTemplate={"resources": {"limits": {"memory": "4 GB"}}}),
            "must be a Kubernetes quantity",
        ),
        (manifest(model={**GOOD_MODEL, "credentials": {}}), "exactly one of credentials.secretName"),
        (manifest(model={**GOOD_MODEL, "cache": {"mode": "Image"}}), "mounts an oci:// source"),
        (manifest(engine={"runtime": "custom"}), "engine.custom belongs to"),
        (manifest(engine={"speculative": {"method": "draft"}}), "belongs to method draft"),
        (manifest(parallelism={"tensor": "all"}), "auto or a number from 1 to 64"),
        (manifest(accelerator={"type": "cpu", "mig": {"profile": "1g.10gb"}}), "slice of an NVIDIA GPU"),
        (manifest(slo={"objective": 100}), "above 0 and below 100"),
        (manifest(autoscaling={"minReplicas": 3, "maxReplicas": 2}), "raise maxReplicas"),
        (manifest(podTemplate={"volumeMounts": [{"name": "a", "mountPath": "/a"}]}), "add the volume"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_object_is_refused_with_a_sentence(kube, operator, namespace, wrong, sentence):
    with pytest.raises(RuntimeError) as refusal:
        kube("apply", "-n", namespace, "-f", "-", stdin=wrong)
    assert sentence in str(refusal.value)
    assert kube.get("llmdep", wrong["metadata"]["name"], namespace) is None


EXAMPLES = sorted(path for folder in ("", "reserved") for path in (ROOT / "examples" / folder).glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted(kube, operator, namespace, example):
    assert "created" in kube("apply", "-n", namespace, "--dry-run=server", "-f", str(example))


def test_a_wrong_class_is_refused_with_a_sentence(kube, operator):
    wrong = {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "LLMClass",
        "metadata": {"name": "wrong"},
        "spec": {"allowedSources": ["HuggingFaceTB"]},
    }
    with pytest.raises(RuntimeError, match="must be a model source"):
        kube("apply", "-f", "-", stdin=wrong)


def test_the_columns_answer_what_people_ask(kube, operator, namespace):
    kube("apply", "-n", namespace, "-f", "-", stdin=manifest("columns", suspend=True))
    header = kube("get", "-n", namespace, "llmdep").splitlines()[0].split()
    assert header == ["NAME", "READY", "REASON", "MODEL", "ACCELERATOR", "URL", "AGE"]


def test_the_scale_subresource_is_kubectl_scale(kube, operator, namespace):
    kube("apply", "-n", namespace, "-f", "-", stdin=manifest("scaled", suspend=True))
    kube("scale", "-n", namespace, "llmdep/scaled", "--replicas=3")
    assert kube.get("llmdep", "scaled", namespace)["spec"]["replicas"] == 3
