"""Every values file under ci/ renders, is taken by lint, and does what its first line says."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.helm import ensure_helm

CHART = Path(__file__).resolve().parents[2] / "charts" / "slipway"
FILES = {
    file.name.removesuffix("-values.yaml"): file for file in sorted((CHART / "ci").glob("*-values.yaml"))
}
Object = dict[str, Any]


def helm(*words: str) -> str:
    done = subprocess.run([ensure_helm(), *words], text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def render(name: str) -> list[Object]:
    text = helm("template", "slipway", str(CHART), "--namespace", "sys", "--values", str(FILES[name]))
    return [obj for obj in yaml.safe_load_all(text) if obj]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [obj for obj in objects if obj["kind"] == kind]


def test_all_are_here() -> None:
    wanted = {"default", "ha", "namespaced", "air-gapped", "openshift", "restricted", "gateway", "full"}
    assert set(FILES) == wanted


@pytest.mark.parametrize("name", FILES)
def test_it_passes_lint_and_renders_no_object_twice(name: str) -> None:
    helm("lint", "--strict", str(CHART), "--values", str(FILES[name]))
    objects = render(name)
    ids = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(set(ids)) == len(ids) > 5
    assert FILES[name].read_text().startswith("# "), "says what it is for"


def test_ha_has_standbys_and_budgets() -> None:
    objects = render("ha")
    assert {o["spec"]["replicas"] for o in of_kind(objects, "Deployment")} == {2, 3}
    assert len(of_kind(objects, "PodDisruptionBudget")) == 2


def test_namespaced_has_nothing_of_the_clusters() -> None:
    cluster = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    assert not [o for o in render("namespaced") if o["kind"] in cluster]


def test_air_gapped_names_no_host_outside() -> None:
    for deployment in of_kind(render("air-gapped"), "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["containers"][0]["image"].startswith("registry.internal:5000/slipway/")


def test_openshift_binds_both_accounts() -> None:
    objects = render("openshift")
    accounts = {o["spec"]["template"]["spec"]["serviceAccountName"] for o in of_kind(objects, "Deployment")}
    (binding,) = [o for o in of_kind(objects, "RoleBinding") if "openshift" in o["roleRef"]["name"]]
    assert {subject["name"] for subject in binding["subjects"]} == accounts


def test_restricted_has_limits_and_a_policy_for_every_pod() -> None:
    objects = render("restricted")
    policies = [o["spec"] for o in of_kind(objects, "NetworkPolicy")]
    for deployment in of_kind(objects, "Deployment"):
        template = deployment["spec"]["template"]
        container = template["spec"]["containers"][0]
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        labels, ports = template["metadata"]["labels"], {port["name"] for port in container["ports"]}
        (mine,) = [p for p in policies if p["podSelector"]["matchLabels"].items() <= labels.items()]
        named = {port["port"] for rule in mine["ingress"] for port in rule["ports"]}
        assert named <= ports, "a policy that names no port of the pod admits nobody"


def test_the_gateways_admin_port_admits_the_operator() -> None:
    objects = render("restricted")
    (operator,) = [o for o in of_kind(objects, "Deployment") if o["metadata"]["name"].endswith("-operator")]
    (gateway,) = [o for o in of_kind(objects, "NetworkPolicy") if o["metadata"]["name"].endswith("-gateway")]
    clients, admin = gateway["spec"]["ingress"]
    assert clients["from"] == [{"namespaceSelector": {"matchLabels": {"slipway.dev/clients": "true"}}}]
    labels = operator["spec"]["template"]["metadata"]["labels"]
    assert admin["from"][0]["podSelector"]["matchLabels"].items() <= labels.items()
