"""What is known of a model before any weight is loaded: found out by a Job, kept in a ControllerRevision.

The Job runs the engine's image in the object's namespace and leaves its findings as its pod's termination
message. They are stored in a ControllerRevision of the object: its data cannot be edited, it goes away with
the object, it survives the operator, and it is of a kind that the operator handles anyway. A moving revision
is resolved by that, once: whoever wants the newest commit changes the object or its restart token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_api.facts import FactsError
from slipway_api.inspection import Inspection, decode, encode
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.explain.findings import Finding
from slipway_operator.kinds import (
    CONTROLLER_REVISION,
    JOB,
    LABEL_INSPECTS,
    Key,
    Kind,
    Object,
    controller_of,
    key_of,
    uid_of,
)
from slipway_operator.plan.effective import Effective
from slipway_operator.plan.jobs import explain_job, job_labels, job_pod, render_job
from slipway_operator.plan.pod import model_path, revision_arguments

CONTAINER: Final = "inspect"
LABEL_FACTS: Final = f"{names.GROUP}/facts"
"""On the ControllerRevision that keeps what was found: the digest of what was asked."""
ATTEMPTS: Final = 3
SECONDS: Final = 600
ENDPOINTS: Final = {"s3": "AWS_ENDPOINT_URL_S3", "gs": "STORAGE_EMULATOR_HOST"}
"""What leads a scheme's sources elsewhere, besides `HF_ENDPOINT`."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Inspected:
    """Where the inspection stands.

    `known` is what was found; without it `finding` says why not (yet). `children` are to be applied.
    """

    known: Inspection | None = None
    finding: Finding | None = None
    children: Sequence[tuple[Kind, Object]] = ()


def wanted(values: Effective) -> bool:
    """Return whether a model is to be inspected.

    A file in the engine's own image is not: it is as far away as the engine, which tells all of it itself.
    """
    return values.source.scheme != "file"


def asked(spec: LLMDeploymentSpec, values: Effective) -> str:
    """Return a digest of what is asked of a source, under which the answer is kept."""
    moving = _moves(values)
    restart = spec.rollout.restart_token if moving and spec.rollout else None
    credentials = spec.model.credentials
    parts = [
        spec.model.source,
        values.revision,
        credentials.model_dump(exclude_none=True) if credentials else None,
        dict(values.fetch_environment).get(ENDPOINTS.get(values.source.scheme, "HF_ENDPOINT")),
        restart,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def _moves(values: Effective) -> bool:
    """Return whether the source may come to mean other files than it does now."""
    if values.source.scheme == "oci":
        return "@sha256:" not in values.source.location
    if values.source.scheme in ("s3", "gs"):
        return True
    return values.revision is not None and not _COMMIT.fullmatch(values.revision)


def inspect(
    parent: Object,
    spec: LLMDeploymentSpec,
    values: Effective,
    revisions: Sequence[Object],
    jobs: Sequence[Object],
    pods: Sequence[Object],
    owner: Object,
) -> Inspected:
    """Return what is known of the model, or what is to be done to know it."""
    digest = asked(spec, values)
    stored = _stored(parent, digest, revisions)
    if stored is not None:
        return Inspected(known=stored)
    job = _job(key_of(parent), spec, values, owner)
    live = next((one for one in jobs if key_of(one) == key_of(job)), None)
    own = [pod for pod in pods if (controller_of(pod) or {}).get("name") == key_of(job).name]
    found = _answer(own)
    if found is not None:
        return Inspected(
            known=found, children=[(CONTROLLER_REVISION, facts_revision(parent, digest, found, owner))]
        )
    children = [] if live is not None else [(JOB, job)]
    return Inspected(finding=_explain(job, live, own), children=children)


def _job(key: Key, spec: LLMDeploymentSpec, values: Effective, owner: Object) -> Object:
    source, volumes, mounts = spec.model.source, [], []
    if values.source.scheme in ("pvc", "file"):
        source = model_path(values)
    if values.source.scheme == "pvc":
        claim = {"claimName": values.source.location, "readOnly": True}
        volumes = [{"name": "claim", "persistentVolumeClaim": claim}]
        mounts = [{"name": "claim", "mountPath": names.CLAIM_DIR, "readOnly": True}]
    arguments = ["inspect", source, *revision_arguments(values)]
    pod = job_pod(spec, values, CONTAINER, arguments, volumes=volumes, mounts=mounts)
    labels = job_labels({LABEL_INSPECTS: key.name})
    at = Key(key.namespace, f"{key.name}-inspect")
    return render_job(at, labels, pod, attempts=ATTEMPTS, seconds=SECONDS, owner=owner)


def _stored(parent: Object, digest: str, revisions: Sequence[Object]) -> Inspection | None:
    for obj in revisions:
        labels = obj["metadata"].get("labels") or {}
        if labels.get(LABEL_FACTS) != digest or (controller_of(obj) or {}).get("uid") != uid_of(parent):
            continue
        try:
            data = obj.get("data") or {}
            content = json.loads(data) if isinstance(data, str) else data
            return decode(json.dumps(content["inspection"]))
        except (FactsError, LookupError, TypeError, ValueError):
            continue  # of another version, or by another hand: it is found out again
    return None


def _answer(pods: Sequence[Object]) -> Inspection | None:
    for pod in pods:
        ended = _terminated(pod)
        if ended.get("exitCode") == 0:
            try:
                return decode(str(ended.get("message") or ""))
            except FactsError:
                continue
    return None


def facts_revision(parent: Object, digest: str, found: Inspection, owner: Object) -> Object:
    """Return the ControllerRevision that keeps what was found."""
    key = key_of(parent)
    return {
        "apiVersion": CONTROLLER_REVISION.api_version,
        "kind": CONTROLLER_REVISION.kind,
        "metadata": {
            "name": f"{key.name}-facts-{digest}",
            "namespace": key.namespace,
            "labels": {**names.labels_of(key.name), LABEL_FACTS: digest},
            "ownerReferences": [owner],
        },
        "revision": 1,
        "data": {"inspection": json.loads(encode(found))},
    }


def outdated_facts(parent: Object, digest: str | None, revisions: Sequence[Object]) -> list[Object]:
    """Return what is kept of models that the object does not ask for any more."""
    kept = [obj for obj in revisions if LABEL_FACTS in (obj["metadata"].get("labels") or {})]
    return [
        obj
        for obj in kept
        if obj["metadata"]["labels"][LABEL_FACTS] != digest
        and (controller_of(obj) or {}).get("uid") == uid_of(parent)
    ]


def _explain(job: Object, live: Object | None, pods: Sequence[Object]) -> Finding:
    key = key_of(job)
    command = f"kubectl -n {key.namespace} logs job/{key.name}"
    on_the_way = Finding(Reason.INSPECTING, "the model's headers are being read", command, on_the_way=True)
    return explain_job(live, pods, CONTAINER) or on_the_way


def _terminated(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == CONTAINER:
            return dict((status.get("state") or {}).get("terminated") or {})
    return {}
