"""Runtime profiles: data that is complete, command lines without a shell, and who may reach the pods."""

from __future__ import annotations

import dataclasses

import pytest

from slipway_operator.kinds import NETWORK_POLICY
from slipway_operator.plan import Installation, make_plan
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
    plan = make_plan(recorded.parent(), Installation(recorded.image, peers=peers))
    return plan.children.get(NETWORK_POLICY)


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
