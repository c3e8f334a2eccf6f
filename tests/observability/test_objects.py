"""What the chart writes for Prometheus and Grafana, and that it writes none of it unless asked."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.helm import ensure_helm

from slipway_api import names

ROOT = Path(__file__).resolve().parents[2]
ALL = ("metrics.podMonitor.enabled=true", "metrics.rules.enabled=true", "metrics.dashboards.enabled=true")
DASHBOARDS = sorted((ROOT / "charts/slipway/files/dashboards").glob("*.json"))


def render(*settings: str) -> list[dict[str, Any]]:
    command = [str(ensure_helm()), "template", "slipway", str(ROOT / "charts/slipway"), "--namespace", "sys"]
    command += [word for setting in settings for word in ("--set", setting)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [obj for obj in yaml.safe_load_all(text) if obj]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == kind}


def test_nothing_that_needs_other_crds_is_written_unless_asked() -> None:
    assert not [obj for obj in render() if obj["apiVersion"].startswith("monitoring.coreos.com")]
    assert not of_kind(render(), "ConfigMap")


def test_pod_monitors_find_the_pods_and_ports_there_are() -> None:
    objects = render(*ALL, "gateway.enabled=true")
    monitors = of_kind(objects, "PodMonitor")
    assert set(monitors) == {"slipway-operator", "slipway-operator-engines", "slipway-gateway"}
    for name in ("slipway-operator", "slipway-gateway"):
        spec = monitors[name]["spec"]
        pod = of_kind(objects, "Deployment")[name]["spec"]["template"]
        assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (endpoint,) = spec["podMetricsEndpoints"]
        assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert endpoint["honorLabels"] is True, "its samples bear the namespace of what they are about"
    engines = monitors["slipway-operator-engines"]["spec"]
    assert engines["namespaceSelector"] == {"any": True}
    assert engines["selector"]["matchExpressions"] == [{"key": names.LABEL_DEPLOYMENT, "operator": "Exists"}]
    (relabel,) = engines["podMetricsEndpoints"][0]["relabelings"]
    assert relabel["targetLabel"] == "deployment"


def test_pod_monitors_stay_in_the_namespaces_that_are_served() -> None:
    monitors = of_kind(render(*ALL, "watchNamespaces={team-a,team-b}"), "PodMonitor")
    spec = monitors["slipway-operator-engines"]["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


def test_the_rule_links_to_where_the_documentation_is() -> None:
    objects = render(*ALL, "metrics.rules.docsUrl=https://docs.example/", "metrics.labels.release=prom")
    rule = of_kind(objects, "PrometheusRule")["slipway-operator"]
    assert rule["metadata"]["labels"]["release"] == "prom"
    alerts = [each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each]
    assert alerts
    for alert in alerts:
        url = alert["annotations"]["runbook_url"]
        assert url == f"https://docs.example/operations/alerts.md#{alert['alert'].lower()}"


def test_dashboards_reach_the_sidecar_as_they_are_written() -> None:
    found = of_kind(render(*ALL), "ConfigMap")
    assert len(found) == len(DASHBOARDS) == 4
    written = {}
    for config in found.values():
        assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
        written.update({name: json.loads(text) for name, text in config["data"].items()})
    assert written == {f"slipway-{file.name}": json.loads(file.read_text()) for file in DASHBOARDS}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_is_whole(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    assert dashboard["uid"] == f"slipway-{file.stem}", "unique, and the same after every upgrade"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    ids = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    for panel in dashboard["panels"]:
        assert panel["targets"], panel["title"]
        for target in (panel, *panel["targets"]):
            assert target["datasource"]["uid"] == "${datasource}"
