"""Installs Prometheus, and the adapter that makes its values external metrics, through kubectl."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import e2e.cluster
from e2e.cluster.progress import Progress
from e2e.monitoring import adapter, discovery, image

NAMESPACE = "monitoring"
PROMETHEUS_URL = f"http://prometheus.{NAMESPACE}:9090"
ADAPTER = "metrics-adapter"
SCRAPE_SECONDS = 5


class Kubectl(Protocol):
    """kubectl as a function: words and standard input in, text out."""

    def __call__(self, *arguments: str, stdin: Any = None) -> Any:
        """Run it. Raises where it fails."""


def install(kubectl: Kubectl, gateway_image: str, metrics: Mapping[str, str]) -> None:
    """Install both and wait for them. `metrics` are the names of external metrics and their PromQL."""
    name, archive = image.ensure(Progress())
    e2e.cluster.load([str(archive)])
    apply(kubectl, [_namespace(), *_prometheus(name, gateway_image)])
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = _certificate(Path(folder))
    proxy = json.loads(
        kubectl("get", "configmap", "-n", "kube-system", "extension-apiserver-authentication", "-o", "json")
    )["data"]
    apply(kubectl, _adapter(gateway_image, metrics, certificate, key, proxy))
    # A new certificate or other metrics are read at the start only.
    kubectl("rollout", "restart", "-n", NAMESPACE, f"deployment/{ADAPTER}")
    for deployment in ("prometheus", ADAPTER):
        kubectl("rollout", "status", "-n", NAMESPACE, f"deployment/{deployment}", "--timeout=120s")
    kubectl("wait", f"apiservice/v1beta1.{adapter.GROUP}", "--for=condition=Available", "--timeout=60s")


def uninstall(kubectl: Kubectl) -> None:
    """Take both away: an API service without its server would fail every discovery."""
    kubectl("delete", f"apiservice/v1beta1.{adapter.GROUP}", "--ignore-not-found")
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
    for kind in ("clusterrole", "clusterrolebinding"):
        kubectl("delete", kind, "slipway-e2e-prometheus", "--ignore-not-found")


def apply(kubectl: Kubectl, objects: list[dict[str, Any]]) -> None:
    """Apply plain objects."""
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _namespace() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _prometheus(image_name: str, gateway_image: str) -> list[dict[str, Any]]:
    place = {"name": "prometheus", "namespace": NAMESPACE}
    role = "slipway-e2e-prometheus"
    rbac = {"apiGroup": "rbac.authorization.k8s.io"}
    container = {
        "name": "prometheus",
        "image": image_name,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "--config.file=/config/prometheus.yaml",
            "--storage.tsdb.path=/data",
            "--storage.tsdb.retention.time=6h",
            "--web.listen-address=:9090",
        ],
        "ports": [{"containerPort": 9090}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 2},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/config"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    finder = {
        "name": "discovery",
        "image": gateway_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/config/discovery.py"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
    }
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": "prometheus"}},
        {"name": "data", "emptyDir": {}},
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {**rbac, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", **place}],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": place,
            "data": {
                "prometheus.yaml": json.dumps(_scrapes()),
                "discovery.py": Path(discovery.__file__).read_text(encoding="utf-8"),
            },
        },
        _service("prometheus", 9090, 9090),
        _deployment("prometheus", "prometheus", [container, finder], volumes),
    ]


def _scrapes() -> dict[str, Any]:
    """Return Prometheus' configuration: engine pods and gateways, as the discovery beside it lists them."""
    refresh = f"{SCRAPE_SECONDS}s"
    return {
        "global": {"scrape_interval": refresh, "scrape_timeout": f"{SCRAPE_SECONDS - 1}s"},
        "scrape_configs": [
            {
                "job_name": job,
                "http_sd_configs": [
                    {"url": f"http://127.0.0.1:{discovery.PORT}/{job}", "refresh_interval": refresh}
                ],
            }
            for job in discovery.JOBS
        ],
    }


def _certificate(folder: Path) -> tuple[str, str]:
    """Return a certificate of the adapter's own, and its key, in PEM."""
    host = f"{ADAPTER}.{NAMESPACE}.svc"
    key, certificate = folder / "tls.key", folder / "tls.crt"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "30", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate.read_text(), key.read_text()


def _adapter(
    image_name: str, metrics: Mapping[str, str], certificate: str, key: str, proxy: Mapping[str, str]
) -> list[dict[str, Any]]:
    place = {"name": ADAPTER, "namespace": NAMESPACE}
    names = ",".join(json.loads(proxy["requestheader-allowed-names"]))
    container = {
        "name": "adapter",
        "image": image_name,
        "imagePullPolicy": "IfNotPresent",
        "command": [
            *(
                "python3",
                "/adapter/adapter.py",
                f"--prometheus={PROMETHEUS_URL}",
                "--metrics=/adapter/metrics.json",
            ),
            *("--cert=/tls/tls.crt", "--key=/tls/tls.key", "--front-proxy-ca=/adapter/front-proxy.crt"),
            f"--names={names}",
        ],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 2},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [
            {"name": "adapter", "mountPath": "/adapter"},
            {"name": "tls", "mountPath": "/tls"},
        ],
    }
    volumes: list[dict[str, Any]] = [
        {"name": "adapter", "configMap": {"name": ADAPTER}},
        {"name": "tls", "secret": {"secretName": ADAPTER}},
    ]
    data = {
        "adapter.py": Path(adapter.__file__).read_text(encoding="utf-8"),
        "metrics.json": json.dumps(dict(metrics)),
        "front-proxy.crt": proxy["requestheader-client-ca-file"],
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": data},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": place,
            "stringData": {"tls.crt": certificate, "tls.key": key},
        },
        _service(ADAPTER, 443, 8443),
        _deployment(ADAPTER, "default", [container], volumes),
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{adapter.GROUP}"},
            "spec": {
                "group": adapter.GROUP,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {**place, "port": 443},
                "caBundle": base64.b64encode(certificate.encode()).decode(),
            },
        },
    ]


def _service(name: str, port: int, target: int) -> dict[str, Any]:
    spec = {"selector": {"app.kubernetes.io/name": name}, "ports": [{"port": port, "targetPort": target}]}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _deployment(
    name: str, account: str, containers: list[dict[str, Any]], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": name}
    hardened = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    pod = {
        "serviceAccountName": account,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**container, "securityContext": hardened} for container in containers],
        "volumes": volumes,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
