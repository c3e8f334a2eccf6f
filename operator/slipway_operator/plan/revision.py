"""Revisions: what pods were made from is kept, and used again until the object itself asks for another.

A revision is a rendered pod template with the values it was rendered from, stored in a ControllerRevision of
the same name as its Deployment. Beside the immutable data it carries, as annotations, the part of the spec
that asked for it and how it went; that the newest one went well stands in the object's status only, until
another follows it. So a new operator, or an edited class, that would render other pods changes
nothing by itself: the stored template belongs to the same spec, and is applied again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from slipway_api import names
from slipway_operator.kinds import CONTROLLER_REVISION, Key, Object, key_of

LABEL_REVISION: Final = f"{names.GROUP}/revision"
SPEC_ANNOTATION: Final = f"{names.GROUP}/spec"
OUTCOME_ANNOTATION: Final = f"{names.GROUP}/outcome"
REVISION_LENGTH: Final = 10

# The fields of the spec that shape no pod; a change of any other one asks for a new revision. Paths end where
# everything below has the same answer.
NOT_SHAPING: Final = frozenset(
    {
        "suspend",
        "replicas",
        "autoscaling",
        "routing",
        "slo",
        "rollout.maxSurge",
        "rollout.maxUnavailable",
        "rollout.progressDeadlineSeconds",
        "rollout.paused",
        "rollout.canary",
        "rollout.upgradePolicy",
    }
)


@dataclass(frozen=True)
class Outcome:
    """How a revision went: `Good` once it was rolled out completely, `Failed` when it never became ready.

    One without `at` stands in the object's status alone, and not in the ControllerRevision.
    """

    result: str = ""
    reason: str = ""
    message: str = ""
    at: str = ""


@dataclass(frozen=True)
class Revision:
    """One revision.

    Attributes:
        name: the hash of its template.
        number: which one of the object's revisions it is; the highest is the newest.
        template: the pod template, with the label of the revision.
        values: the values in force that it was rendered from, as in status.
        asked: the part of the spec that shapes pods; None where that is not known.
        facts: what else it was made from, such as the model's commit and the class.
        deployment: name of its Deployment.
        outcome: how it went.
    """

    name: str
    number: int
    template: Object
    values: Sequence[Object] = ()
    asked: Object | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    deployment: str = ""
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def good(self) -> bool:
        """Return whether it was rolled out completely once."""
        return self.outcome.result == "Good"

    @property
    def failed(self) -> bool:
        """Return whether it never became ready."""
        return self.outcome.result == "Failed"


@dataclass(frozen=True)
class Rendering:
    """What the operator would make pods from now, and from which values. `facts` go into the history."""

    template: Object
    values: Sequence[Object] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


_OUTCOME: Final = frozenset(field.name for field in fields(Outcome))


def hash_of(template: Mapping[str, Any]) -> str:
    """Return a short name for everything that shapes a pod. The label of the revision itself is left out."""
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if k != LABEL_REVISION}
    return hashlib.sha256(_canonical({**template, "metadata": metadata}).encode()).hexdigest()[
        :REVISION_LENGTH
    ]


def labelled(template: Object, revision: str) -> Object:
    """Return a pod template with the label of its revision."""
    metadata = {
        **template["metadata"],
        "labels": {**template["metadata"]["labels"], LABEL_REVISION: revision},
    }
    return {**template, "metadata": metadata}


def shaping(spec: Mapping[str, Any], path: str = "") -> Object:
    """Return the part of a spec that shapes pods, without empty values: `engine: {}` asks for nothing."""
    kept: Object = {}
    for name, value in spec.items():
        here = f"{path}.{name}" if path else name
        if here in NOT_SHAPING:
            continue
        inner = shaping(value, here) if isinstance(value, Mapping) else value
        if inner is not None and inner not in ({}, []):
            kept[name] = inner
    return kept


def read(obj: Object) -> Revision:
    """Return the revision that a ControllerRevision holds. Raises LookupError, TypeError or ValueError.

    The data cannot be edited; of the annotations, which can, an unreadable one counts as absent.
    """
    data = obj["data"]
    content: Object = json.loads(data) if isinstance(data, str) else data
    annotations = obj["metadata"].get("annotations") or {}
    asked = _loaded(annotations.get(SPEC_ANNOTATION))
    outcome = {k: str(v) for k, v in _loaded(annotations.get(OUTCOME_ANNOTATION)).items() if k in _OUTCOME}
    return Revision(
        name=content["template"]["metadata"]["labels"][LABEL_REVISION],
        number=int(obj.get("revision") or 0),
        template=content["template"],
        values=content.get("values") or (),
        asked=asked or None,
        facts=content.get("facts") or {},
        deployment=content.get("deployment") or key_of(obj).name,
        outcome=Outcome(**outcome),
    )


def _loaded(text: str | None) -> Object:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def render_revision(parent: Mapping[str, Any], revision: Revision, owner: Object) -> Object:
    """Return the ControllerRevision of a revision."""
    key = key_of(parent)
    annotations = {}
    if revision.asked is not None:
        annotations[SPEC_ANNOTATION] = _canonical(revision.asked)
    if revision.outcome.at:
        annotations[OUTCOME_ANNOTATION] = _canonical(
            {name: value for name, value in vars(revision.outcome).items() if value}
        )
    name = name_of(key, revision.name)
    data: Object = {"template": revision.template, "values": list(revision.values)}
    if revision.facts:
        data["facts"] = dict(revision.facts)
    if revision.deployment not in ("", name):
        data["deployment"] = revision.deployment
    return {
        "apiVersion": CONTROLLER_REVISION.api_version,
        "kind": CONTROLLER_REVISION.kind,
        "metadata": {
            "name": name,
            "namespace": key.namespace,
            "labels": {**names.labels_of(key.name), LABEL_REVISION: revision.name},
            "ownerReferences": [owner],
            **({"annotations": annotations} if annotations else {}),
        },
        "revision": revision.number,
        "data": data,
    }


def name_of(parent: Key, revision: str) -> str:
    """Return the name of a revision's ControllerRevision and of its Deployment."""
    return f"{parent.name}-{revision}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
