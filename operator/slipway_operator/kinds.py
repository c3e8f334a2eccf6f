"""The kinds of objects that the operator reads and writes, and how an object is named among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from slipway_api import names

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as JSON."""


class Key(NamedTuple):
    """Namespace and name: one LLMDeployment, or one child of it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Kind:
    """One kind of the API server. Of a kind that belongs to the cluster the namespace is None, or empty."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """Return `group/version`, as an object carries it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of one object, or of all in a namespace or the cluster."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


PARENT: Final = Kind(names.GROUP, names.VERSION, names.KIND, names.PLURAL)
LLM_CLASS: Final = Kind(names.GROUP, names.VERSION, names.CLASS_KIND, names.CLASS_PLURAL)
DEPLOYMENT: Final = Kind("apps", "v1", "Deployment", "deployments")
CONTROLLER_REVISION: Final = Kind("apps", "v1", "ControllerRevision", "controllerrevisions")
SERVICE: Final = Kind("", "v1", "Service", "services")
PDB: Final = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
JOB: Final = Kind("batch", "v1", "Job", "jobs")
CLAIM: Final = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD: Final = Kind("", "v1", "Pod", "pods")
ENDPOINT_SLICE: Final = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
EVENT: Final = Kind("", "v1", "Event", "events")
LEASE: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")

# There is one of each per object, and it is never deleted; of the others one a revision.
SINGLE: Final = (NETWORK_POLICY, SERVICE, PDB)
PER_REVISION: Final = (CONTROLLER_REVISION, DEPLOYMENT)
CHILDREN: Final = (*SINGLE, *PER_REVISION)
# What the operator writes, and what of that it deletes, beside the status of its objects.
WRITTEN: Final = (*CHILDREN, JOB, CLAIM)
DELETED: Final = (*PER_REVISION, CLAIM)
OWNED: Final = (*CHILDREN, JOB, CLAIM, POD)
WATCHED: Final = (PARENT, LLM_CLASS, *OWNED)
# Classes belong to the cluster: an operator without any right beyond its namespaces does without them.
WATCHED_WITHOUT_CLASSES: Final = (PARENT, *OWNED)

LABEL_INSPECTS: Final = f"{names.GROUP}/inspects"
"""On an inspect Job and its pods: the LLMDeployment they are about. Services do not select by it."""
LABEL_CACHE: Final = f"{names.GROUP}/model-cache"
"""On everything that has to do with a shared volume: claim, Job, and the pods that mount it."""

_READ: Final = frozenset({"get", "list", "watch"})

OWNED_SELECTOR: Final = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


def rights_on(kind: Kind, subresource: str | None = None) -> frozenset[str]:
    """Return the verbs that the operator needs: the chart grants these, and the client asks for no others."""
    if subresource is not None:
        return frozenset({"patch"}) if (kind, subresource) == (PARENT, "status") else frozenset()
    if kind == LEASE:
        return frozenset({"get", "create", "update"})
    if kind == ENDPOINT_SLICE:
        return frozenset({"list"})  # of the gateway's namespace
    if kind == EVENT:
        return frozenset({"list", "create"})
    rights = _READ if kind in WATCHED else frozenset()
    rights |= {"create", "patch"} if kind in WRITTEN else frozenset()
    rights |= {"patch"} if kind == POD else frozenset()  # which one goes first
    return rights | ({"delete"} if kind in DELETED else frozenset())


def key_of(obj: Mapping[str, Any]) -> Key:
    """Return namespace and name of an object."""
    meta = obj["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])


def parent_key(obj: Mapping[str, Any]) -> Key | None:
    """Return the LLMDeployment that an owned object says it belongs to, by its label."""
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    name = labels.get(names.LABEL_DEPLOYMENT) or labels.get(LABEL_INSPECTS)
    return Key(meta.get("namespace", ""), name) if name else None


def cache_key(obj: Mapping[str, Any]) -> Key | None:
    """Return the model cache that a claim, a Job or a pod has to do with."""
    meta = obj["metadata"]
    name = (meta.get("labels") or {}).get(LABEL_CACHE)
    return Key(meta.get("namespace", ""), name) if name else None


def uid_of(obj: Mapping[str, Any]) -> str:
    """Return an object's UID."""
    return str(obj["metadata"].get("uid", ""))


def version_of(obj: Mapping[str, Any]) -> int:
    """Return the resource version as a number, so that newer and older can be told apart; 0 where absent.

    etcd revisions are numbers and Kubernetes promises that they order; a server that breaks the promise
    yields 0 and every event counts as news.
    """
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the owner reference that controls an object."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return dict(reference)
    return None
