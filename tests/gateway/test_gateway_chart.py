"""The chart's gateway: arguments that the program takes, rights to look and nothing more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway_api.names import ENGINE_PORT, selector_of
from slipway_gateway.__main__ import parser, settings_of
from slipway_gateway.objects import Key
from slipway_gateway.settings import AuthMode

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def helm() -> str:
    command = [sys.executable, "-m", "e2e.cluster", "helm"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def render(helm: str, *settings: str) -> list[dict[str, Any]]:
    command = [helm, "template", "x", str(ROOT / "charts/slipway"), "--namespace", "sys"]
    command += [word for setting in settings for word in ("--set-json", setting)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [
        obj
        for obj in yaml.safe_load_all(text)
        if obj and obj["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "gateway"
    ]


def test_there_is_no_gateway_unless_asked_for(helm: str):
    assert render(helm) == []


@pytest.mark.parametrize("mode", ["tenants", "none"])
def test_the_program_takes_the_charts_arguments(helm: str, mode: str):
    objects = render(helm, "gateway.enabled=true", f'gateway.authMode="{mode}"', 'watchNamespaces=["a","b"]')
    pod = next(obj for obj in objects if obj["kind"] == "Deployment")["spec"]["template"]["spec"]
    settings = settings_of(parser().parse_args(pod["containers"][0]["args"]))
    assert settings.auth_mode is AuthMode(mode)
    assert settings.namespaces == ("a", "b")
    assert pod["terminationGracePeriodSeconds"] > settings.timeouts.drain
    assert settings.holds_reader == "system:serviceaccount:sys:x-operator"
    assert settings.tls is None


def test_budgets_are_kept_on_a_volume(helm: str):
    objects = render(helm, "gateway.enabled=true", 'gateway.state.size="1Gi"')
    pod = next(obj for obj in objects if obj["kind"] == "Deployment")["spec"]["template"]["spec"]
    settings = settings_of(parser().parse_args(pod["containers"][0]["args"]))
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volume = next(v for v in pod["volumes"] if v["name"] == mounts[str(settings.state_dir)])
    (claim,) = [obj for obj in objects if obj["kind"] == "PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == volume["persistentVolumeClaim"]["claimName"]
    assert settings.service in {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Service"}


def test_records_go_to_a_collector_whose_headers_come_from_a_secret(helm: str):
    objects = render(
        helm, "gateway.enabled=true", 'gateway.otlp={"endpoint":"http://c:4318","headersSecret":"collector"}'
    )
    pod = next(obj for obj in objects if obj["kind"] == "Deployment")["spec"]["template"]["spec"]
    settings = settings_of(parser().parse_args(pod["containers"][0]["args"]))
    assert settings.otlp is not None
    assert settings.otlp.url == "http://c:4318/v1/logs"
    variable = next(e for e in pod["containers"][0]["env"] if e["name"] == "OTEL_EXPORTER_OTLP_HEADERS")
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "collector", "key": "headers"}


def test_tls_comes_from_a_secret(helm: str):
    objects = render(helm, "gateway.enabled=true", 'gateway.tls.secretName="front"')
    pod = next(obj for obj in objects if obj["kind"] == "Deployment")["spec"]["template"]["spec"]
    settings = settings_of(parser().parse_args(pod["containers"][0]["args"]))
    assert settings.tls is not None
    (volume,) = [v for v in pod["volumes"] if v["name"] == "tls"]
    assert volume["secret"]["secretName"] == "front"
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "tls")
    assert {settings.tls.certificate.parent, settings.tls.key.parent} == {Path(mount["mountPath"])}


@pytest.mark.parametrize("namespaces", ["[]", '["a"]'])
@pytest.mark.parametrize("mode", ["tenants", "none"])
def test_it_may_look_and_nothing_more(helm: str, mode: str, namespaces: str):
    objects = render(
        helm, "gateway.enabled=true", f'gateway.authMode="{mode}"', f"watchNamespaces={namespaces}"
    )
    roles = [obj for obj in objects if obj["kind"] in ("Role", "ClusterRole")]
    rules = [(obj, rule) for obj in roles for rule in obj["rules"]]
    reviews = [rule for _, rule in rules if rule["resources"] == ["tokenreviews"]]
    assert [rule["verbs"] for rule in reviews] == [["create"]]
    assert all(rule["verbs"] == ["get", "list", "watch"] for _, rule in rules if rule not in reviews)
    secrets = [obj for obj, rule in rules if "secrets" in rule["resources"]]
    assert [(obj["kind"], obj["metadata"]["namespace"]) for obj in secrets] == (
        [("Role", "sys")] if mode == "tenants" else []
    )
    wide = [obj for obj in roles if obj["kind"] == "ClusterRole" and obj["rules"][0] not in reviews]
    assert bool(wide) == (namespaces == "[]")


def test_an_existing_gateway_gets_a_pool_and_a_route_for_each_deployment(helm: str):
    wanted = {
        "enabled": True,
        "parentRefs": [{"name": "inference", "namespace": "gateways"}],
        "deployments": [
            {"namespace": "team-a", "name": "chat", "names": ["chat", "gpt"]},
            {"namespace": "b", "name": "x"},
        ],
        "endpointPicker": {"name": "epp"},
    }
    objects = render(helm, f"gatewayAPI={json.dumps(wanted)}")
    found = {
        (obj["kind"], str(Key(obj["metadata"]["namespace"], obj["metadata"]["name"]))): obj for obj in objects
    }
    assert found.keys() == {
        (kind, key) for kind in ("InferencePool", "HTTPRoute") for key in ("team-a/chat", "b/x")
    }
    pool, route = found["InferencePool", "team-a/chat"], found["HTTPRoute", "team-a/chat"]
    assert pool["spec"]["selector"]["matchLabels"] == selector_of("chat")
    assert pool["spec"]["targetPorts"] == [{"number": ENGINE_PORT}]
    by_name, by_path = route["spec"]["rules"]
    assert [m["headers"][0]["value"] for m in by_name["matches"]] == ["chat", "gpt"]
    assert by_path["matches"][0]["path"]["value"] == "/team-a/chat"
    for rule in (by_name, by_path):
        assert rule["backendRefs"][0]["name"] == pool["metadata"]["name"]


def test_routes_without_a_gateway_are_refused(helm: str):
    wanted = {"enabled": True, "deployments": [{"namespace": "b", "name": "x"}]}
    with pytest.raises(subprocess.CalledProcessError) as error:
        render(helm, f"gatewayAPI={json.dumps(wanted)}")
    assert "gatewayAPI." in error.value.stderr
