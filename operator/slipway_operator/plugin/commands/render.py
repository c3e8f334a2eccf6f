"""Print what an LLMDeployment becomes as plain YAML that runs without the CRD and without the operator.

This is the way out: `kubectl slipway render -f x.yaml | kubectl apply -f -` starts the same pods in a
cluster that has never heard of Slipway. What the operator does over time is not in it.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import Any

from slipway_api import names
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, Kind, Object
from slipway_operator.plan import Plan, Refusal, World, make_plan
from slipway_operator.plan.installation import Installation
from slipway_operator.plugin import documents, screen
from slipway_operator.plugin.errors import UsageError
from slipway_operator.plugin.installation import offline
from slipway_operator.plugin.kubectl import Kubectl

NAME = "render"
SUMMARY = "print the plain objects that a deployment becomes: the way out"


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("-f", "--filename", required=True, help="file, folder or - for standard input")
    parser.add_argument("--engine-image", help="image where the object names none")


def run(options: Namespace, cluster: Kubectl) -> int:
    """Print the objects."""
    # Who may call is the chart's knowledge: without it a NetworkPolicy would shut everybody out.
    installation = replace(offline(options.engine_image), peers=None)
    rendered = [
        child
        for document in documents.deployments(options.filename)
        for child in render(document, installation, options.namespace)
    ]
    screen.machine(rendered, "yaml" if options.output == "text" else options.output)
    return 0


def render(document: documents.Document, installation: Installation, namespace: str | None) -> list[Object]:
    """Return the objects of one LLMDeployment. Raises UsageError with the sentence of a refusal."""
    parent = fresh(document, namespace)
    plan = make_plan(World(parent, alone=True), installation, time.time())
    if isinstance(plan, Refusal):
        raise UsageError(f"{document.place}: {plan.message}.")
    bare = [_plain(kind, body, plan) for kind, body in plan.children if kind is not CONTROLLER_REVISION]
    return [body if namespace or _namespace(document) else _without_namespace(body) for body in bare]


def fresh(document: documents.Document, namespace: str | None) -> Object:
    """Return the object as the API server would have it just after it was created."""
    metadata = document.body.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise UsageError(f"{document.place} has no metadata.name; write one.")
    return {
        **document.body,
        "metadata": {
            "namespace": namespace or metadata.get("namespace") or "default",
            "generation": 1,
            **{key: value for key, value in metadata.items() if key != "namespace"},
        },
    }


def _plain(kind: Kind, body: Object, plan: Plan) -> Object:
    """Return a child without what ties it to the operator; of a Deployment's revisions there is one."""
    metadata = {k: v for k, v in body["metadata"].items() if k not in ("ownerReferences", "annotations")}
    labels = {k: v for k, v in metadata.get("labels", {}).items() if k != names.LABEL_MANAGED_BY}
    plain: Object = {**body, "metadata": {**metadata, "labels": labels}}
    if kind is DEPLOYMENT:
        name = str(labels[names.LABEL_DEPLOYMENT])
        plain["metadata"]["name"] = name
        plain["spec"] = {**plain["spec"], **_own_rollout(name, plan)}
    return plain


def _own_rollout(name: str, plan: Plan) -> dict[str, Any]:
    """Return the fields by which Kubernetes itself rolls changes out, from what the object asked of us."""
    limits = {"maxSurge": plan.values.max_surge, "maxUnavailable": plan.values.max_unavailable}
    return {
        "selector": {"matchLabels": names.selector_of(name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": limits},
        "progressDeadlineSeconds": plan.values.progress_deadline_seconds,
        "revisionHistoryLimit": 5,
    }


def _namespace(document: documents.Document) -> object:
    return (document.body.get("metadata") or {}).get("namespace")


def _without_namespace(body: Object) -> Object:
    return {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "namespace"}}
