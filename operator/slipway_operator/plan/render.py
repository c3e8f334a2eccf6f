"""The children of an LLMDeployment as the operator wants them: Service, disruption budget, Deployment.

Rendering is deterministic: the same object and the same operator yield the same bytes, so a reconcile of an
unchanged world has nothing to write, and a new operator restarts no pod whose template it renders alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from slipway_api import names
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.kinds import (
    DEPLOYMENT,
    NETWORK_POLICY,
    PARENT,
    PDB,
    SERVICE,
    Kind,
    Object,
    key_of,
    uid_of,
)
from slipway_operator.plan.effective import Effective
from slipway_operator.plan.installation import Installation
from slipway_operator.plan.network import network_policy
from slipway_operator.plan.pod import render_pod

LABEL_REVISION: Final = f"{names.GROUP}/revision"
REVISION_LENGTH: Final = 10


def render_children(
    parent: Mapping[str, Any], spec: LLMDeploymentSpec, values: Effective, installation: Installation
) -> tuple[dict[Kind, Object], str]:
    """Return the children by kind, and the revision of the pods they ask for."""
    name = key_of(parent).name
    template = render_pod(name, spec, values)
    revision = revision_of(template)
    template["metadata"]["labels"][LABEL_REVISION] = revision
    bodies = {
        SERVICE: _service(name),
        PDB: _disruption_budget(name),
        DEPLOYMENT: _deployment(name, template, values),
    }
    if installation.peers is not None:
        bodies = {NETWORK_POLICY: network_policy(name, values.profile.port, installation.peers), **bodies}
    children = {
        kind: {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": _metadata(parent),
            "spec": body,
        }
        for kind, body in bodies.items()
    }
    return children, revision


def revision_of(template: Mapping[str, Any]) -> str:
    """Return a short name for everything that shapes a pod."""
    canonical = json.dumps(template, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()[:REVISION_LENGTH]


def owner_reference(parent: Mapping[str, Any]) -> Object:
    """Return the reference by which a child goes away with its LLMDeployment."""
    return {
        "apiVersion": PARENT.api_version,
        "kind": PARENT.kind,
        "name": key_of(parent).name,
        "uid": uid_of(parent),
        "controller": True,
    }


def _metadata(parent: Mapping[str, Any]) -> Object:
    key = key_of(parent)
    return {
        "name": key.name,
        "namespace": key.namespace,
        "labels": names.labels_of(key.name),
        "ownerReferences": [owner_reference(parent)],
    }


def _deployment(name: str, template: Object, values: Effective) -> Object:
    return {
        "replicas": values.replicas,
        "selector": {"matchLabels": names.selector_of(name)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": values.max_surge, "maxUnavailable": values.max_unavailable},
        },
        "progressDeadlineSeconds": values.progress_deadline_seconds,
        "revisionHistoryLimit": 5,
        "template": template,
    }


def _service(name: str) -> Object:
    return {
        "type": "ClusterIP",
        "selector": names.selector_of(name),
        "ports": [
            {"name": "http", "port": names.SERVICE_PORT, "targetPort": "http", "protocol": "TCP"},
        ],
    }


def _disruption_budget(name: str) -> Object:
    return {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": names.selector_of(name)},
    }
