"""The children of an LLMDeployment as the operator wants them: Service, disruption budget, Deployments.

Rendering is deterministic: the same object and the same operator yield the same bytes, so a reconcile of an
unchanged world has nothing to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from slipway_api import names
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
from slipway_operator.plan.revision import LABEL_REVISION, Revision, name_of

IN_PLACE_ANNOTATION: Final = f"{names.GROUP}/in-place"
# Kubernetes' own deadline never passes: ours starts when the weights are local, which it cannot know.
NO_DEADLINE: Final = 2**31 - 1


def render_single(
    parent: Mapping[str, Any], values: Effective, installation: Installation
) -> dict[Kind, Object]:
    """Return the children of which there is one per object, by kind."""
    name = key_of(parent).name
    bodies = {SERVICE: _service(name), PDB: _disruption_budget(name)}
    if installation.peers is not None:
        bodies = {NETWORK_POLICY: network_policy(name, values.profile.port, installation.peers), **bodies}
    return {kind: _child(parent, kind, name, body) for kind, body in bodies.items()}


def render_deployment(
    parent: Mapping[str, Any], revision: Revision, replicas: int, *, in_place: bool = False
) -> Object:
    """Return the Deployment of a revision. `in_place` marks that there is no room for a surge."""
    key = key_of(parent)
    name = revision.deployment or name_of(key, revision.name)
    selector = names.selector_of(key.name)
    if name != key.name:
        selector |= {LABEL_REVISION: revision.name}
    # Else it was made by an operator that kept no revisions, and a selector cannot be changed.
    body = {
        "replicas": replicas,
        "selector": {"matchLabels": selector},
        # Its template never changes; this is how Kubernetes undoes an edit by hand.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "progressDeadlineSeconds": NO_DEADLINE,
        "revisionHistoryLimit": 1,
        "template": revision.template,
    }
    child = _child(parent, DEPLOYMENT, name, body)
    child["metadata"]["labels"] |= {LABEL_REVISION: revision.name}
    if in_place:
        child["metadata"]["annotations"] = {IN_PLACE_ANNOTATION: "true"}
    return child


def owner_reference(parent: Mapping[str, Any]) -> Object:
    """Return the reference by which a child goes away with its LLMDeployment."""
    return {
        "apiVersion": PARENT.api_version,
        "kind": PARENT.kind,
        "name": key_of(parent).name,
        "uid": uid_of(parent),
        "controller": True,
    }


def _child(parent: Mapping[str, Any], kind: Kind, name: str, body: Object) -> Object:
    key = key_of(parent)
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": key.namespace,
            "labels": names.labels_of(key.name),
            "ownerReferences": [owner_reference(parent)],
        },
        "spec": body,
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
