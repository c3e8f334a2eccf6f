"""Jobs that inspect and fetch models: the engine's image, no rights, none of the engine's resources.

They never carry the label by which Services and disruption budgets select an engine's pods.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import LLMDeploymentSpec, PodTemplateSpec
from slipway_operator.explain.findings import Finding, clean
from slipway_operator.explain.pods import explain_pod, is_leaving
from slipway_operator.explain.termination import explain_termination
from slipway_operator.kinds import JOB, Key, Object, key_of
from slipway_operator.plan.credentials import (
    ca_mounts,
    ca_volumes,
    fetch_environment,
    identity_mounts,
    identity_volumes,
    key_mounts,
    key_volumes,
)
from slipway_operator.plan.effective import Effective
from slipway_operator.plan.pod import SECURITY_CONTEXT, unprivileged

JOB_NAME: Final = "slipway-model"
"""`app.kubernetes.io/name` of what brings models."""
TTL_SECONDS: Final = 600
"""How long a finished Job stays: to be looked at, and, where it failed, as the pause before another."""
SMALL: Final = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
"""Headers are some megabytes, and a download holds none of the file in memory."""


def job_labels(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a Job and of its pods."""
    return {names.LABEL_NAME: JOB_NAME, names.LABEL_MANAGED_BY: names.MANAGED_BY, **extra}


def render_job(
    key: Key,
    labels: Mapping[str, str],
    pod: Object,
    *,
    attempts: int,
    seconds: int,
    owner: Object | None = None,
) -> Object:
    """Return a Job whose name ends in a digest of its pod, since a Job's pod cannot be changed."""
    text = json.dumps(pod, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": {
            "name": f"{key.name}-{digest}",
            "namespace": key.namespace,
            "labels": dict(labels),
            **({"ownerReferences": [owner]} if owner is not None else {}),
        },
        "spec": {
            "backoffLimit": attempts - 1,
            "activeDeadlineSeconds": seconds,
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }


def job_pod(
    spec: LLMDeploymentSpec,
    values: Effective,
    container: str,
    arguments: Sequence[str],
    *,
    volumes: Sequence[Object] = (),
    mounts: Sequence[Object] = (),
    ports: Sequence[Object] = (),
) -> Object:
    """Return the pod of a Job: placed like the engine's, so that volumes bind where that can use them."""
    overlay = spec.pod_template or PodTemplateSpec()
    pod: Object = {
        "restartPolicy": "Never",
        **unprivileged(),
        "containers": [
            {
                "name": container,
                "image": values.job_image,
                "imagePullPolicy": "IfNotPresent",
                "args": list(arguments),
                "env": fetch_environment(spec, values),
                "resources": SMALL,
                "securityContext": SECURITY_CONTEXT,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - inside the container
                    *ca_mounts(values),
                    *key_mounts(spec, values),
                    *identity_mounts(spec, values),
                    *mounts,
                ],
                **({"ports": list(ports)} if ports else {}),
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            *ca_volumes(values),
            *key_volumes(spec, values),
            *identity_volumes(spec, values),
            *volumes,
        ],
    }
    account = spec.model.credentials.service_account_name if spec.model.credentials else None
    if account is not None:
        pod["serviceAccountName"] = account
    if overlay.node_selector:
        pod["nodeSelector"] = dict(overlay.node_selector)
    if overlay.tolerations:
        pod["tolerations"] = [t.model_dump(by_alias=True, exclude_none=True) for t in overlay.tolerations]
    if overlay.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in overlay.image_pull_secrets]
    return pod


def explain_job_pod(pod: Object, container: str) -> Finding | None:
    """Return what keeps a Job's pod from its end; None where it came to a good one."""
    key = key_of(pod)
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (status.get("state") or {}).get("terminated")
        if status.get("name") == container and ended:
            # Before anything else: of a pod whose container failed the kubelet only says that it failed.
            logs = f"kubectl -n {key.namespace} logs {key.name} -c {container}"
            return explain_termination(ended, container, logs)
    return None if is_leaving(pod) else explain_pod(pod)


def explain_job(live: Object | None, pods: Sequence[Object], container: str) -> Finding | None:
    """Return why a Job does not come to a good end: what its newest pod says, else what the Job says."""
    for pod in sorted(pods, key=_age, reverse=True):
        found = explain_job_pod(pod, container)
        if found is not None and not found.on_the_way:
            return found
    if live is None or finished(live) != "Failed":
        return None
    key = key_of(live)
    conditions = (live.get("status") or {}).get("conditions") or [{}]
    said = clean(str(conditions[-1].get("message") or "it left no word"))
    message = f"Job {key.name} failed: {said}; another one is made within {TTL_SECONDS // 60} minutes"
    return Finding(Reason.DOWNLOAD_FAILED, message, f"kubectl -n {key.namespace} describe job {key.name}")


def _age(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def finished(job: Mapping[str, Any]) -> str | None:
    """Return `Complete` or `Failed` where a Job came to an end."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            return str(condition["type"])
    return None
