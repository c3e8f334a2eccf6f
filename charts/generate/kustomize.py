"""The Kustomize base: what the chart renders by its own values, without Helm's marks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml
from e2e.cluster.helm import ensure_helm

NAMESPACE: Final = "slipway-system"
_MARKS: Final = ("helm.sh/chart", "app.kubernetes.io/managed-by")
_CRD: Final = "CustomResourceDefinition"


def base(chart: Path) -> dict[str, str]:
    """Return the files of the base by name."""
    command = [str(ensure_helm()), "template", "slipway", str(chart), "--namespace", NAMESPACE]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    objects = [_unmarked(obj) for obj in yaml.safe_load_all(text) if obj]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return {
        "kustomization.yaml": _dump(
            [
                {
                    "apiVersion": "kustomize.config.k8s.io/v1beta1",
                    "kind": "Kustomization",
                    "resources": ["namespace.yaml", "crds.yaml", "operator.yaml"],
                }
            ]
        ),
        "namespace.yaml": _dump([namespace]),
        "crds.yaml": _dump([obj for obj in objects if obj["kind"] == _CRD]),
        "operator.yaml": _dump([obj for obj in objects if obj["kind"] != _CRD]),
    }


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _unmarked(each) for key, each in value.items() if key not in _MARKS}
    if kept.get("annotations") == {"helm.sh/resource-policy": "keep"}:
        del kept["annotations"]
    return kept


def _dump(objects: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(objects, sort_keys=False, width=110, allow_unicode=True)
