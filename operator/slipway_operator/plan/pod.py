"""The engine's pod: command line, sources, probes, resources, and Pod Security `restricted` throughout."""

from __future__ import annotations

from typing import Any, Final

from slipway_api import names
from slipway_api.v1alpha1 import EnvVar, LLMDeploymentSpec, PodTemplateSpec
from slipway_operator.kinds import Object
from slipway_operator.plan.effective import Effective

USER_ID: Final = 65532
RESTART_ANNOTATION: Final = f"{names.GROUP}/restart-token"

# Time for kube-proxy and gateways to stop sending to a pod that goes away, before the engine hears of it.
# `lifecycle.preStop.sleep` needs no shell in the image; Kubernetes has it by default since 1.30.
PRE_STOP_SECONDS: Final = 5
DRAIN_MARGIN_SECONDS: Final = 30
# How long the engine's HTTP side may take to answer at all; loading the weights is not part of it.
STARTUP_PERIOD_SECONDS: Final = 2
STARTUP_FAILURES: Final = 150

SECURITY_CONTEXT: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def render_pod(name: str, spec: LLMDeploymentSpec, values: Effective) -> Object:
    """Return the pod template of an LLMDeployment, without the label of its revision."""
    overlay = spec.pod_template or PodTemplateSpec()
    annotations = dict(overlay.annotations or {})
    if spec.rollout and spec.rollout.restart_token:
        annotations[RESTART_ANNOTATION] = spec.rollout.restart_token
    metadata: Object = {"labels": {**(overlay.labels or {}), **names.labels_of(name)}}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": _pod_spec(spec, overlay, values)}


def _pod_spec(spec: LLMDeploymentSpec, overlay: PodTemplateSpec, values: Effective) -> Object:
    pod: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": values.drain_seconds + DRAIN_MARGIN_SECONDS,
        "containers": [_engine(overlay, values)],
        "volumes": _volumes(values),
    }
    if values.source.fetched:
        pod["initContainers"] = [_fetch(spec, overlay, values)]
    if overlay.node_selector:
        pod["nodeSelector"] = dict(overlay.node_selector)
    if overlay.tolerations:
        pod["tolerations"] = [_dump(toleration) for toleration in overlay.tolerations]
    affinity = _affinity(overlay.affinity or {}, values)
    if affinity:
        pod["affinity"] = affinity
    if overlay.priority_class_name:
        pod["priorityClassName"] = overlay.priority_class_name
    if overlay.service_account_name:
        pod["serviceAccountName"] = overlay.service_account_name
    if overlay.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in overlay.image_pull_secrets]
    return pod


def _engine(overlay: PodTemplateSpec, values: Effective) -> Object:
    return {
        **_container(names.ENGINE_CONTAINER, values),
        "args": serve_arguments(values),
        "env": _environment(overlay),
        "ports": [{"name": "http", "containerPort": names.ENGINE_PORT, "protocol": "TCP"}],
        "resources": _resources(values.resources.requests, values.resources.limits),
        "startupProbe": _probe("/health", STARTUP_PERIOD_SECONDS, STARTUP_FAILURES),
        "livenessProbe": _probe("/health", 10, 3),
        "readinessProbe": _probe("/ready", 5, 2),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "volumeMounts": [*_tmp_mount(), *_model_mounts(values)],
    }


def _fetch(spec: LLMDeploymentSpec, overlay: PodTemplateSpec, values: Effective) -> Object:
    env = _environment(overlay)
    credentials = spec.model.credentials
    if credentials is not None:
        key = {"name": credentials.secret_name, "key": "token"}
        env = [entry for entry in env if entry["name"] != "HF_TOKEN"]
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": key}})
    accelerator = {values.accelerator.resource}
    return {
        **_container(names.FETCH_CONTAINER, values),
        "args": fetch_arguments(spec.model.source, values),
        "env": env,
        # The same share as the engine's, which costs nothing: a pod reserves the larger of the two.
        "resources": _resources(
            {k: v for k, v in values.resources.requests.items() if k not in accelerator},
            {k: v for k, v in values.resources.limits.items() if k not in accelerator},
        ),
        "volumeMounts": [*_tmp_mount(), {"name": "model", "mountPath": names.MODEL_DIR}],
    }


def _container(name: str, values: Effective) -> Object:
    return {
        "name": name,
        "image": values.image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": SECURITY_CONTEXT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def serve_arguments(values: Effective) -> list[str]:
    """Return the engine's command line. Each user's value is one argument of its own: no shell reads it."""
    arguments = ["serve", model_path(values), "--host", "0.0.0.0", "--port", str(names.ENGINE_PORT)]  # noqa: S104
    arguments += ["--served-model-name", *values.served_names]
    if values.max_model_len is not None:
        arguments += ["--max-model-len", str(values.max_model_len)]
    arguments += ["--max-num-seqs", str(values.max_num_seqs)]
    arguments += ["--max-num-batched-tokens", str(values.max_batch_tokens)]
    arguments += ["--memory-percent", str(values.memory_percent)]
    arguments.append("--enable-prefix-caching" if values.prefix_caching else "--no-enable-prefix-caching")
    return [*arguments, "--drain-seconds", str(values.drain_seconds)]


def fetch_arguments(source: str, values: Effective) -> list[str]:
    """Return the command line of the init container that brings the model over the network."""
    revision = ["--revision", values.revision] if values.revision is not None else []
    return ["fetch", source, *revision, "--to", names.MODEL_DIR]


def model_path(values: Effective) -> str:
    """Return where the engine container finds the model."""
    source = values.source
    if source.fetched:
        return names.MODEL_DIR
    if source.scheme == "pvc":
        return f"{names.CLAIM_DIR}/{source.path}".rstrip("/")
    return source.location


def _environment(overlay: PodTemplateSpec) -> list[Object]:
    given = [_environment_entry(entry) for entry in overlay.env or ()]
    own = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 - the one writable directory of the container
    return [entry for entry in own if entry["name"] not in {e["name"] for e in given}] + given


def _environment_entry(entry: EnvVar) -> Object:
    return _dump(entry)


def _volumes(values: Effective) -> list[Object]:
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {}}]
    if values.source.fetched:
        volumes.append({"name": "model", "emptyDir": {}})
    if values.source.scheme == "pvc":
        claim = {"claimName": values.source.location, "readOnly": True}
        volumes.append({"name": "claim", "persistentVolumeClaim": claim})
    return volumes


def _tmp_mount() -> list[Object]:
    return [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - inside the container


def _model_mounts(values: Effective) -> list[Object]:
    if values.source.fetched:
        return [{"name": "model", "mountPath": names.MODEL_DIR, "readOnly": True}]
    if values.source.scheme == "pvc":
        return [{"name": "claim", "mountPath": names.CLAIM_DIR, "readOnly": True}]
    return []


def _resources(requests: Any, limits: Any) -> Object:
    return {
        field: dict(sorted(values.items()))
        for field, values in (("requests", requests), ("limits", limits))
        if values
    }


def _probe(path: str, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
        "successThreshold": 1,
    }


def _affinity(given: Object, values: Effective) -> Object:
    """Return the user's affinity with the accelerator's nodes required in every one of its terms."""
    products = values.accelerator.node_products
    if not products:
        return given
    wanted = {"key": values.accelerator.product_label, "operator": "In", "values": list(products)}
    node = dict(given.get("nodeAffinity") or {})
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    # Terms are alternatives, so each of them has to ask for the accelerator.
    terms = required.get("nodeSelectorTerms") or [{}]
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [
            {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), wanted]} for term in terms
        ]
    }
    return {**given, "nodeAffinity": node}


def _dump(model: Any) -> Object:
    dumped: Object = model.model_dump(by_alias=True, exclude_none=True)
    return dumped
