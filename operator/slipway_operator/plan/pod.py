"""The engine's pod, whichever runtime: sources, probes, resources, Pod Security `restricted` throughout."""

from __future__ import annotations

from typing import Any, Final

from slipway_api import names
from slipway_api.v1alpha1 import LLMDeploymentSpec, PodTemplateSpec
from slipway_operator.kinds import LABEL_CACHE, Object
from slipway_operator.plan.credentials import (
    ca_mounts,
    ca_volumes,
    environment,
    fetch_environment,
    key_mounts,
    key_volumes,
)
from slipway_operator.plan.effective import Effective
from slipway_operator.plan.nodes import affinity_of, tolerations_of
from slipway_operator.plan.profiles import CUSTOM, Setting, arguments_of

USER_ID: Final = 65532
RESTART_ANNOTATION: Final = f"{names.GROUP}/restart-token"

# Time for kube-proxy and gateways to stop sending to a pod that goes away, before the engine hears of it.
# `lifecycle.preStop.sleep` needs no shell in the image; Kubernetes has it by default since 1.30.
PRE_STOP_SECONDS: Final = 5
DRAIN_MARGIN_SECONDS: Final = 30
# How long the engine's HTTP side may take to answer at all; loading the weights is not part of it.
STARTUP_PERIOD_SECONDS: Final = 2
STARTUP_FAILURES: Final = 150

PUBLISHED: Final = "model"
"""The folder of a shared volume in which a whole model appears."""

SECURITY_CONTEXT: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


RDMA_SECURITY_CONTEXT: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
    "readOnlyRootFilesystem": True,
    # The kernel takes an added capability from anybody but root when the engine is started.
    "runAsNonRoot": False,
    "runAsUser": 0,
}
"""Of the engine's container alone, and only where a class opens it: what devices write to is locked."""


def render_pod(name: str, spec: LLMDeploymentSpec, values: Effective) -> Object:
    """Return the pod template of an LLMDeployment, without the label of its revision."""
    overlay = spec.pod_template or PodTemplateSpec()
    annotations = dict(overlay.annotations or {})
    if spec.rollout and spec.rollout.restart_token:
        annotations[RESTART_ANNOTATION] = spec.rollout.restart_token
    labels = {**(overlay.labels or {}), **names.labels_of(name)}
    if values.claim is not None:
        labels[LABEL_CACHE] = values.claim
    metadata: Object = {"labels": labels}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": _pod_spec(spec, overlay, values)}


def unprivileged() -> Object:
    """Return the part of a pod's spec that keeps it within Pod Security `restricted`, without a token."""
    return {
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
    }


def _pod_spec(spec: LLMDeploymentSpec, overlay: PodTemplateSpec, values: Effective) -> Object:
    pod: Object = {
        **unprivileged(),
        "terminationGracePeriodSeconds": values.drain_seconds + DRAIN_MARGIN_SECONDS,
        "containers": [_engine(overlay, values)],
        "volumes": [*_volumes(values), *(_dump(volume) for volume in overlay.volumes or ())],
    }
    if values.source.fetched and values.claim is None and not mounts_image(values):
        pod["initContainers"] = [_fetch(spec, values)]
        pod["volumes"] += [*ca_volumes(values), *key_volumes(spec, values)]
    if overlay.node_selector:
        pod["nodeSelector"] = dict(overlay.node_selector)
    tolerations = tolerations_of([_dump(toleration) for toleration in overlay.tolerations or ()], values)
    if tolerations:
        pod["tolerations"] = tolerations
    affinity = affinity_of(overlay.affinity or {}, values)
    if affinity:
        pod["affinity"] = affinity
    for field, value in (
        ("priorityClassName", overlay.priority_class_name),
        ("runtimeClassName", overlay.runtime_class_name),
        ("schedulerName", overlay.scheduler_name),
        ("serviceAccountName", overlay.service_account_name),
    ):
        if value:
            pod[field] = value
    if overlay.topology_spread_constraints:
        pod["topologySpreadConstraints"] = [dict(one) for one in overlay.topology_spread_constraints]
    if overlay.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in overlay.image_pull_secrets]
    return pod


def _engine(overlay: PodTemplateSpec, values: Effective) -> Object:
    profile = values.profile
    command = {"command": list(profile.command)} if profile.command else {}
    return {
        **_container(names.ENGINE_CONTAINER, values.image),
        **({"securityContext": RDMA_SECURITY_CONTEXT} if values.locks_memory else {}),
        **command,
        "args": serve_arguments(values),
        "env": environment(overlay, {**profile.environment, **_custom_variables(values)}),
        "ports": [{"name": "http", "containerPort": profile.port, "protocol": "TCP"}],
        "resources": _resources(values.resources.requests, values.resources.limits),
        "startupProbe": _probe(profile.liveness, STARTUP_PERIOD_SECONDS, _startup_failures(values)),
        "livenessProbe": _probe(profile.liveness, 10, 3),
        "readinessProbe": _probe(profile.readiness, 5, 2),
        "lifecycle": {"preStop": {"sleep": {"seconds": pre_stop_seconds(values)}}},
        "volumeMounts": [
            *_tmp_mount(),
            *_shm_mount(values),
            *_model_mounts(values),
            *(_dump(mount) for mount in overlay.volume_mounts or ()),
        ],
    }


def _custom_variables(values: Effective) -> Object:
    """Return what a custom runtime's command may refer to, as `$(NAME)`: Kubernetes fills it in, no shell."""
    if values.profile.name != CUSTOM.name:
        return {}
    return {
        "SLIPWAY_MODEL": model_path(values),
        "SLIPWAY_PORT": str(values.profile.port),
        "SLIPWAY_SERVED_NAME": values.served_names[0],
    }


def pre_stop_seconds(values: Effective) -> int:
    """Return how long a pod that goes away goes on before the engine is told to stop.

    An engine that ends its streams at SIGTERM is told only when they had the time that was promised to them.
    """
    return PRE_STOP_SECONDS + (0 if values.profile.drains else values.drain_seconds)


def _startup_failures(values: Effective) -> int:
    """Return how often the first answer may fail: other engines answer only once the weights are loaded."""
    if values.profile.ours:
        return STARTUP_FAILURES
    return max(STARTUP_FAILURES, values.progress_deadline_seconds // STARTUP_PERIOD_SECONDS)


def _fetch(spec: LLMDeploymentSpec, values: Effective) -> Object:
    devices = values.layout.devices
    return {
        **_container(names.FETCH_CONTAINER, values.fetch_image),
        "args": fetch_arguments(spec.model.source, values),
        "env": fetch_environment(spec, values),
        # The same share as the engine's, which costs nothing: a pod reserves the larger of the two.
        "resources": _resources(
            {k: v for k, v in values.resources.requests.items() if k not in devices},
            {k: v for k, v in values.resources.limits.items() if k not in devices},
        ),
        "volumeMounts": [
            *_tmp_mount(),
            *ca_mounts(values),
            *key_mounts(spec, values),
            {"name": "model", "mountPath": names.MODEL_DIR},
        ],
    }


def _container(name: str, image: str) -> Object:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": SECURITY_CONTEXT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def serve_arguments(values: Effective) -> list[str]:
    """Return the engine's command line. Each user's value is one argument of its own: no shell reads it."""
    settings: dict[Setting, object] = {
        "served_names": values.served_names,
        "max_model_len": values.max_model_len,
        "max_num_seqs": values.max_num_seqs,
        "max_batch_tokens": values.max_batch_tokens,
        "memory_percent": values.memory_percent,
        "memory_fraction": f"{values.memory_percent / 100:.2f}",
        "prefix_caching": values.prefix_caching,
        "drain_seconds": values.drain_seconds,
        "tensor": values.layout.tensor if values.layout.tensor > 1 else None,
        "pipeline": values.layout.pipeline if values.layout.pipeline > 1 else None,
        "weights": None if values.layout.weights == "auto" else values.layout.weights,
        "kv_cache": _kv_cache(values),
    }
    arguments = arguments_of(values.profile, model_path(values), "0.0.0.0", settings)  # noqa: S104 - its pod
    return [*arguments, *values.extra_args]


def _kv_cache(values: Effective) -> str | None:
    """Return the type of keys and values where one is asked for; `none` is the one that a CPU computes in."""
    asked = values.layout.kv_cache
    if asked == "none":
        return "float32" if values.accelerator.resource is None else None
    return None if asked == "auto" else asked


def fetch_arguments(source: str, values: Effective) -> list[str]:
    """Return the command line of the init container that brings the model over the network."""
    return ["fetch", source, *revision_arguments(values), "--to", names.MODEL_DIR]


def revision_arguments(values: Effective) -> list[str]:
    """Return which version of the source is meant: the commit, once it is known."""
    version = values.commit or values.revision
    return ["--revision", version] if version is not None and values.source.scheme != "https" else []


def mounts_image(values: Effective) -> bool:
    """Return whether the kubelet mounts the artifact itself."""
    return values.source.scheme == "oci" and values.cache.mode == "Image"


def image_reference(values: Effective) -> str:
    """Return the artifact to mount: by its digest, once it is known, so that all replicas have the same."""
    location = values.source.location
    if values.commit is None:
        return location
    host, slash, path = location.partition("/")
    return f"{host}{slash}{path.partition('@')[0].partition(':')[0]}@sha256:{values.commit}"


def model_path(values: Effective) -> str:
    """Return where the engine container finds the model."""
    source = values.source
    if source.fetched:
        # Slipway's engine finds the one file of a directory by itself; others want to be told its name.
        file = source.location.rpartition("/")[2] if source.scheme == "https" else ""
        return names.MODEL_DIR if values.profile.ours or not file else f"{names.MODEL_DIR}/{file}"
    if source.scheme == "pvc":
        return f"{names.CLAIM_DIR}/{source.path}".rstrip("/")
    return source.location


def _volumes(values: Effective) -> list[Object]:
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {}}]
    if values.profile.shared_memory:
        volumes.append(
            {"name": "slipway-shm", "emptyDir": {"medium": "Memory", "sizeLimit": _shared(values)}}
        )
    if values.source.fetched and values.claim is not None:
        claim = {"claimName": values.claim, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": claim})
    elif mounts_image(values):
        image = {"reference": image_reference(values), "pullPolicy": "IfNotPresent"}
        volumes.append({"name": "model", "image": image})
    elif values.source.fetched:
        volumes.append({"name": "model", "emptyDir": {}})
    if values.source.scheme == "pvc":
        claim = {"claimName": values.source.location, "readOnly": True}
        volumes.append({"name": "claim", "persistentVolumeClaim": claim})
    return volumes


def _shared(values: Effective) -> str:
    """Return how large /dev/shm may grow, which counts as the pod's memory.

    A gibibyte for what workers tell each other (vLLM's queue is 10 messages of 16 to 24 MiB, NCCL's buffers
    are some hundred MiB a device where devices do not reach each other), and one more for each device.
    """
    devices = sum(int(count) for count in values.layout.devices.values())
    return f"{1 + max(devices, 1)}Gi"


def _tmp_mount() -> list[Object]:
    return [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - inside the container


def _shm_mount(values: Effective) -> list[Object]:
    return [{"name": "slipway-shm", "mountPath": "/dev/shm"}] if values.profile.shared_memory else []  # noqa: S108


def _model_mounts(values: Effective) -> list[Object]:
    if values.source.fetched:
        # What is published in a shared volume lies in a folder of its own.
        inside = {"subPath": PUBLISHED} if values.claim is not None else {}
        return [{"name": "model", "mountPath": names.MODEL_DIR, "readOnly": True, **inside}]
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


def _dump(model: Any) -> Object:
    dumped: Object = model.model_dump(by_alias=True, exclude_none=True)
    return dumped
