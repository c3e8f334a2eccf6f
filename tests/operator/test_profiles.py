"""Runtime profiles: data that is complete, command lines without a shell, and who may reach the pods."""

from __future__ import annotations

import dataclasses

import pytest

from slipway_api.conditions import Reason
from slipway_operator.kinds import DEPLOYMENT, NETWORK_POLICY
from slipway_operator.plan import Installation, World, make_plan
from slipway_operator.plan.profiles import (
    CUSTOM,
    PROFILES,
    SGLANG,
    SLIPWAY,
    VLLM,
    Flag,
    Profile,
    arguments_of,
)

SETTINGS = {
    "served_names": ("a", "b"),
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "max_batch_tokens": None,
    "memory_fraction": "0.90",
    "memory_percent": 90,
    "prefix_caching": False,
    "tensor": 2,
}


def test_vllm_and_sglang_as_their_documentation_has_them():
    assert " ".join([*VLLM.command, *arguments_of(VLLM, "/m", "0.0.0.0", SETTINGS)]) == (
        "vllm serve /m --host 0.0.0.0 --port 8000 --served-model-name a b --max-model-len 2048 "
        "--max-num-seqs 8 --gpu-memory-utilization 0.90 --no-enable-prefix-caching --tensor-parallel-size 2"
    )
    assert " ".join([*SGLANG.command, *arguments_of(SGLANG, "/m", "0.0.0.0", SETTINGS)]) == (
        "python3 -m sglang.launch_server --model-path /m --host 0.0.0.0 --port 8000 --enable-metrics "
        "--served-model-name a --context-length 2048 --max-running-requests 8 --mem-fraction-static 0.90 "
        "--disable-radix-cache --tp-size 2"
    )


@pytest.mark.parametrize("profile", [VLLM, SGLANG], ids=lambda profile: profile.name)
def test_what_a_profile_says_is_in_the_sources_of_the_runtime(profile, recorded):
    """`recorded/runtime-*.json` lists what was read in a released package, which it names."""
    theirs = recorded.load(f"runtime-{profile.name}")
    words = [word for flag in profile.flags for word in (flag.flag, flag.on, flag.off) if word]
    words += [word for word in profile.arguments if word.startswith("--")]
    # A yes-or-no option of vLLM can be said with `--no-` as well.
    assert {word.replace("--no-", "--") for word in words} <= set(theirs["flags"])
    assert {profile.liveness, profile.readiness, profile.metrics_path} <= set(theirs["paths"])
    # A counter gets `_total` when it is exposed, where its name does not end so already.
    exposed = {name for metric in theirs["metrics"] for name in (metric, f"{metric}_total")}
    assert set(profile.metrics.values()) <= exposed


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_a_profile_is_complete(profile):
    known = {field.name for field in dataclasses.fields(Profile)}
    assert known >= {"command", "arguments", "port", "liveness", "readiness", "drains", "metrics"}
    for flag in profile.flags:
        assert flag.flag or flag.on or flag.off, f"{flag.setting} has no flag"
    assert profile is CUSTOM or set(profile.metrics) == set(SLIPWAY.metrics)
    assert not any("trust" in argument for argument in profile.arguments)


def test_no_value_becomes_two_arguments_and_a_missing_one_becomes_none():
    odd = Profile(
        "odd", arguments=("{model}",), flags=(Flag("max_num_seqs", "--n"), Flag("served_names", "--name"))
    )
    assert arguments_of(odd, "/m; rm -rf $(HOME)", "h", {"served_names": ("a b",)}) == [
        "/m; rm -rf $(HOME)",
        "--name",
        "a b",
    ]
    assert arguments_of(odd, "/m", "h", {"served_names": ()}) == ["/m"]


def policy_of(recorded, peers):
    here = Installation(recorded.image, peers=peers)
    found = make_plan(World(recorded.parent()), here, recorded.moment).of_kind(NETWORK_POLICY)
    return found[0] if found else None


def test_the_network_policy_admits_its_group_and_whom_the_chart_names(recorded):
    gateway = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "slipway-gateway"}}}
    policy = policy_of(recorded, (gateway,))
    own = {"matchLabels": {"slipway.dev/deployment": "chat"}}
    assert policy["spec"] == {
        "podSelector": own,
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": own}]},
            {"from": [gateway], "ports": [{"protocol": "TCP", "port": 8000}]},
        ],
    }
    # An empty `from` would admit everybody: with no peers there must be no such rule.
    assert policy_of(recorded, ())["spec"]["ingress"] == [{"from": [{"podSelector": own}]}]
    assert policy_of(recorded, None) is None


def pod_of(plan):
    return next(c for k, c in _children(plan) if k is DEPLOYMENT)["spec"]["template"]["spec"]


def _children(plan):
    return plan.children.items() if isinstance(plan.children, dict) else plan.children


def test_a_custom_runtime_is_what_the_object_says(recorded):
    custom = {
        "command": ["python3", "-c"],
        "args": ["serve('$(SLIPWAY_MODEL)')", "; rm -rf /"],
        "port": 9001,
        "healthPath": "/alive",
        "readyPath": "/v1/models",
    }
    engine = {"runtime": "custom", "image": "mine:1", "custom": custom, "extraArgs": ["--more"]}
    plan = recorded.plan(recorded.parent(engine=engine))
    container = pod_of(plan)["containers"][0]
    assert container["command"] == ["python3", "-c"]
    assert container["args"] == ["serve('$(SLIPWAY_MODEL)')", "; rm -rf /", "--more"]
    assert container["ports"][0]["containerPort"] == 9001
    assert container["livenessProbe"]["httpGet"]["path"] == "/alive"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models"
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert variables["SLIPWAY_MODEL"] == "/models/tiny.gguf"
    assert (variables["SLIPWAY_PORT"], variables["SLIPWAY_SERVED_NAME"]) == ("9001", "chat")
    policy = dict(_children(plan))[NETWORK_POLICY]
    assert policy["spec"]["ingress"][0]["from"], "its own group"
    assert pod_of(plan)["terminationGracePeriodSeconds"] == 330
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 305, "it may end its streams at SIGTERM"


def test_another_runtime_needs_an_image_and_fetches_with_ours(recorded):
    refusal = make_plan_of(recorded, engine={"runtime": "vllm"})
    assert refusal.reason is Reason.INVALID_SPEC
    assert "Slipway's own image does not carry runtime vllm" in refusal.message
    model = {"source": "https://h/m.gguf"}
    plan = recorded.plan(
        recorded.parent(model=model, engine={"runtime": "vllm", "image": "vllm/vllm-openai:1"})
    )
    pod = pod_of(plan)
    assert pod["initContainers"][0]["image"] == recorded.image
    assert pod["containers"][0]["args"][0] == "/var/lib/slipway/model/m.gguf", "others are told the file"
    assert {"name": "slipway-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in pod["volumes"]


def make_plan_of(recorded, **spec):
    return recorded.planned(recorded.parent(**spec))


def test_a_class_shapes_pods_and_says_so(recorded):
    offer = {
        "defaults": {
            "engine": {"maxNumSeqs": 8},
            "podTemplate": {"nodeSelector": {"pool": "llm"}, "tolerations": [{"key": "llm"}]},
        },
        "ceilings": {"memory": "1Gi", "cpu": "2", "drainSeconds": 60, "maxModelLen": 4096},
        "network": {"hfEndpoint": "https://hub.example"},
    }
    classes = {"standard": {"metadata": {"name": "standard"}, "spec": {"default": True, **offer}}}
    plan = recorded.planned(recorded.parent(model={"source": "https://h/m.gguf"}), classes=classes)
    pod = pod_of(plan)
    assert pod["nodeSelector"] == {"pool": "llm"}
    assert {"name": "HF_ENDPOINT", "value": "https://hub.example"} in pod["initContainers"][0]["env"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    values = {value.field: (value.value, value.source) for value in plan.values.values}
    assert values["engine.maxNumSeqs"] == ("8", "class/standard")
    assert values["engine.maxModelLen"] == ("4096", "class/standard")
    assert values["rollout.drainSeconds"] == ("60", "class/standard")
    assert values["engine.prefixCaching"] == ("true", "built-in")
    assert values["podTemplate.resources.requests.memory"] == ("1Gi", "built-in"), "cut to the ceiling"


@pytest.mark.parametrize(
    ("source", "told"),
    [("https://h/m.gguf", '["https://h/", "hf://org/"]'), ("hf://org/name", None)],
    ids=["https", "hf"],
)
def test_who_fetches_from_a_web_server_is_told_where_redirects_may_lead(recorded, source, told):
    offer = {"default": True, "allowedSources": ["https://h/", "hf://org/"]}
    classes = {"standard": {"metadata": {"name": "standard"}, "spec": offer}}
    plan = recorded.planned(recorded.parent(model={"source": source}), classes=classes)
    variables = {entry["name"]: entry.get("value") for entry in pod_of(plan)["initContainers"][0]["env"]}
    assert variables.get("SLIPWAY_ALLOWED_SOURCES") == told
