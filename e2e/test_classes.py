"""Classes on a real API server: refused, opened by an edit of the class, and never written into the object.

Other tests share the cluster, so no class here is the default one and none is required.
"""

from __future__ import annotations

import uuid

import pytest

SMALL = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}


@pytest.fixture
def llm_class(kube):
    """A class of this test alone; a function that writes its spec."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"

    def write(**spec):
        meta = {"name": name}
        kube.apply({"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMClass", "metadata": meta, "spec": spec})
        return name

    yield write
    kube("delete", "llmclasses.slipway.dev", name, "--ignore-not-found")


@pytest.fixture
def apply(kube, namespace):
    def apply(name, **spec):
        kube.apply(
            {
                "apiVersion": "slipway.dev/v1alpha1",
                "kind": "LLMDeployment",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"suspend": True, "model": {"source": "file:///models/none.gguf"}, **spec},
            }
        )

    return apply


@pytest.fixture
def told(kube, namespace, wait_for):
    """Wait until the object's Ready condition has a reason; return the whole object."""

    def told(name, reason):
        def probe():
            obj = kube.get("llmdep", name, namespace)
            conditions = {c["type"]: c for c in (obj.get("status") or {}).get("conditions", [])}
            seen.append(conditions.get("Ready", {}).get("message"))
            return obj if conditions.get("Ready", {}).get("reason") == reason else None

        seen = []
        try:
            return wait_for(f"reason {reason}", probe, 120)
        except AssertionError as error:
            raise AssertionError(f"{error}; told instead: {list(dict.fromkeys(seen))}") from None

    return told


def message(obj):
    return next(c["message"] for c in obj["status"]["conditions"] if c["type"] == "Ready")


def test_a_class_that_is_missing_and_then_made(kube, operator, apply, told, llm_class):
    name = f"missing-{uuid.uuid4().hex[:8]}"
    apply("late", className=name)
    assert f"LLMClass {name} does not exist" in message(told("late", "ClassNotFound"))
    meta = {"name": name}
    kube.apply({"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMClass", "metadata": meta, "spec": {}})
    try:
        told("late", "Suspended")
    finally:
        kube("delete", "llmclasses.slipway.dev", name)
    told("late", "ClassNotFound")


def test_what_is_denied_is_opened_by_an_edit_of_the_class(operator, apply, told, llm_class):
    name = llm_class()
    overlay = {"serviceAccountName": "powerful", "env": [{"name": "A", "value": "b"}]}
    apply("denied", className=name, podTemplate=overlay)
    said = message(told("denied", "ClassDenied"))
    assert "podTemplate.env (allow.env)" in said
    assert "podTemplate.serviceAccountName (allow.podTemplate)" in said
    llm_class(allow={"env": True, "podTemplate": ["serviceAccountName"]})
    told("denied", "Suspended")
    llm_class(allowedSources=["hf://org/"], allow={"env": True, "podTemplate": ["serviceAccountName"]})
    assert "allowed are hf://org/" in message(told("denied", "ClassDenied"))


def test_defaults_are_shown_and_never_written_into_the_object(
    operator, apply, told, llm_class, kube, namespace
):
    selector = {"podTemplate": {"nodeSelector": {"kubernetes.io/os": "linux"}}, "engine": {"maxNumSeqs": 7}}
    name = llm_class(defaults=selector, ceilings={"memory": "1Gi"})
    apply("shaped", className=name, podTemplate={"resources": SMALL})
    obj = told("shaped", "Suspended")
    assert obj["spec"] == {
        "className": name,
        "suspend": True,
        "replicas": 1,
        "model": {"source": "file:///models/none.gguf"},
        "podTemplate": {"resources": SMALL},
    }
    assert obj["status"]["className"] == name
    values = {v["field"]: (v["value"], v["from"]) for v in obj["status"]["plan"]["effective"]}
    assert values["engine.maxNumSeqs"] == ("7", f"class/{name}")
    assert values["podTemplate.resources.limits.memory"] == ("64Mi", "spec")
    pods = kube("-n", namespace, "get", "deployments", json=True)["items"]
    assert pods[0]["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_a_ceiling_holds_against_limits(operator, apply, told, llm_class):
    name = llm_class(ceilings={"memory": "1Gi", "acceleratorsPerReplica": 1})
    apply("large", className=name, podTemplate={"resources": {"limits": {"memory": "2Gi"}}})
    assert "limits.memory 2Gi, above the ceiling of 1Gi" in message(told("large", "ClassDenied"))
