"""A model cache: one volume a namespace for one commit of one source, filled once, mounted read-only by all.

Claim and Job are nobody's children, since several objects may refer to one cache: who refers to it is worked
out anew each time. The Job works in a folder beside the model's and renames it when everything is there and
checked, so a claim that says it is filled holds a whole model.

    claim absent, wanted           -> make it, and the Job (a claim may bind only where a pod wants it)
    not filled, no Job             -> make the Job (one that failed is gone after its time to live)
    Job complete                   -> note on the claim that it is filled
    nobody refers to it            -> note since when; after its retention, and where no pod mounts it,
                                      delete the claim, in exactly this version
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_api.inspection import Inspection
from slipway_api.quantity import parse_quantity
from slipway_api.v1alpha1 import CacheSpec, LLMDeploymentSpec
from slipway_operator.explain.findings import Finding
from slipway_operator.kinds import CLAIM, LABEL_CACHE, Key, Object
from slipway_operator.moments import seconds_of, text_of
from slipway_operator.plan.classes import Refused
from slipway_operator.plan.effective import DEFAULT_RETAIN_SECONDS, Effective
from slipway_operator.plan.jobs import explain_job, finished, job_labels, job_pod, render_job
from slipway_operator.plan.pod import PUBLISHED, revision_arguments

CONTAINER: Final = names.FETCH_CONTAINER
DIRECTORY: Final = "/var/lib/slipway/cache"
PROGRESS_PORT: Final = 8080
ATTEMPTS: Final = 4
SECONDS: Final = 24 * 3600
"""A download that stalls ends by itself; this is for whatever else might never end."""
SPARE_BYTES: Final = 128 << 20
MIB: Final = 1 << 20

FILLED: Final = f"{names.GROUP}/filled"
UNREFERENCED: Final = f"{names.GROUP}/unreferenced-since"
RETAIN: Final = f"{names.GROUP}/retain-seconds"
SOURCE: Final = f"{names.GROUP}/source"


@dataclass(frozen=True)
class Wish:
    """What one object asks of a cache: the claim it wants, and the Job that would fill it for this object."""

    key: Key
    claim: Object
    job: Object
    retain_seconds: int


@dataclass(frozen=True)
class Progress:
    """Bytes that are there, bytes there are to be (None: nobody knows), bytes a second, and when."""

    fetched: int
    total: int | None
    rate: int
    at: str = ""


@dataclass(frozen=True)
class View:
    """A cache as an object's plan sees it: filled, or what keeps it from being so."""

    filled: bool = False
    finding: Finding | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Step:
    """What to do next for one cache, and where it stands.

    `claim` and `job` are to be applied, `delete` is a claim to delete. `finding` says what keeps it from
    being filled, None where it is; `again` is in how many seconds time alone will have changed something.
    """

    claim: Object | None = None
    job: Object | None = None
    delete: Object | None = None
    filled: bool = False
    finding: Finding | None = None
    again: float | None = None


def wish(
    key: Key, spec: LLMDeploymentSpec, values: Effective, known: Inspection, ceiling: str | None
) -> Wish:
    """Return what an object with `mode: Shared` asks for. Raises Refused."""
    cache = values.cache
    name = f"slipway-model-{_digest(spec, known, values.signers)}"
    labels = job_labels({LABEL_CACHE: name})
    retain = cache.retain_seconds if cache.retain_seconds is not None else DEFAULT_RETAIN_SECONDS
    claim: Object = {
        "apiVersion": CLAIM.api_version,
        "kind": CLAIM.kind,
        "metadata": {
            "name": name,
            "namespace": key.namespace,
            "labels": labels,
            "annotations": {RETAIN: str(retain), SOURCE: spec.model.source},
        },
        "spec": {
            "accessModes": [cache.access_mode or "ReadWriteMany"],
            "resources": {"requests": {"storage": _size(cache, known, ceiling)}},
            **({"storageClassName": cache.storage_class_name} if cache.storage_class_name else {}),
        },
    }
    at = Key(key.namespace, name)
    return Wish(at, claim, _job(at, labels, spec, values), retain)


def next_step(
    wishes: Mapping[Key, Wish | None],
    claim: Object | None,
    jobs: Sequence[Object],
    pods: Sequence[Object],
    now: float,
    *,
    may_delete: bool,
) -> Step:
    """Return the next step for one cache.

    `wishes` are those of the objects that refer to it, by object; None refers to it by pods alone. `pods` are
    all that carry its label. `may_delete` is False until every object was asked.
    """
    asking = next((wished for _, wished in sorted(wishes.items(), key=_first) if wished is not None), None)
    if asking is None:
        return _idle(claim, bool(wishes), pods, now, may_delete=may_delete)
    if claim is not None and claim["metadata"].get("deletionTimestamp"):
        text = f"PersistentVolumeClaim {asking.key.name} is being deleted, and is then made anew"
        return Step(finding=Finding(Reason.TERMINATING, text, on_the_way=True))
    filled = _filled(claim, jobs, now)
    wanted = _annotated(asking.claim, {FILLED: filled} if filled else {})
    if claim is not None:
        # Nothing but its size can be changed, and several objects may have asked for it in several ways.
        wanted["spec"] = {**_ours(claim)["spec"], "resources": _not_smaller(claim, wanted)}
    if filled:
        return Step(claim=wanted, filled=True)
    active = [job for job in jobs if finished(job) != "Complete"]
    own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("job-name")]
    live = active[0] if active else None
    return Step(claim=wanted, job=asking.job if live is None else None, finding=_explain(asking, live, own))


def _idle(
    claim: Object | None, referred: bool, pods: Sequence[Object], now: float, *, may_delete: bool
) -> Step:
    """Return what to do with a cache that no object wants filled."""
    if claim is None or claim["metadata"].get("deletionTimestamp"):
        return Step()
    annotations = claim["metadata"].get("annotations") or {}
    since = annotations.get(UNREFERENCED)
    if not may_delete:
        return Step()  # an object that was not asked yet may refer to it
    # A fetch that ended counts too: its pod would keep the claim half-deleted until its Job's time to live is
    # over, and who asks for the model again meanwhile would have to wait for that.
    if referred or pods:
        return Step(claim=_annotated(_ours(claim), {UNREFERENCED: None}) if since else None)
    if since is None:
        return Step(claim=_annotated(_ours(claim), {UNREFERENCED: text_of(now)}), again=_retain(annotations))
    left = (seconds_of(since) or now) + _retain(annotations) - now
    return Step(delete=claim) if left <= 0 else Step(again=left)


def refuse_wrong_caches(spec: LLMDeploymentSpec, values: Effective) -> None:
    """Refuse where a cache could never be filled or mounted as it is asked for. Raises Refused."""
    cache, credentials = values.cache, spec.model.credentials
    if credentials is not None and credentials.service_account_name is not None:
        _refuse_identity(values)
    if values.source.fetched and cache.mode == "Shared":
        _refuse_what_cannot_be_shared(spec, values, cache)


def _refuse_identity(values: Effective) -> None:
    scheme, mode = values.source.scheme, values.cache.mode
    if scheme not in ("s3", "gs"):
        raise Refused(
            Reason.INVALID_SPEC,
            f"model.credentials.serviceAccountName is an identity for s3:// and gs://, and {scheme}:// "
            "sources take none; write model.credentials.secretName",
        )
    if mode != "Shared":
        raise Refused(
            Reason.INVALID_SPEC,
            f"model.credentials.serviceAccountName is the fetch Job's alone, and with mode {mode} "
            "each engine pod fetches; write model.cache.mode Shared, or model.credentials.secretName",
        )


def _refuse_what_cannot_be_shared(spec: LLMDeploymentSpec, values: Effective, cache: CacheSpec) -> None:
    if cache.access_mode == "ReadOnlyMany":
        raise Refused(
            Reason.VOLUME_NOT_SHAREABLE,
            "model.cache.accessMode ReadOnlyMany is a volume that nobody fills; write ReadWriteMany (pods "
            "mount it read-only anyway), or fill a volume by other means, clone it as ReadOnlyMany "
            "and serve it as model.source pvc://CLAIM/PATH",
        )
    if cache.access_mode != "ReadWriteOnce":
        return
    most = max(values.replicas, spec.autoscaling.max_replicas if spec.autoscaling else 0) + values.max_surge
    selector = (spec.pod_template and spec.pod_template.node_selector) or {}
    if most > 1 and "kubernetes.io/hostname" not in selector:
        raise Refused(
            Reason.VOLUME_NOT_SHAREABLE,
            f"model.cache.accessMode ReadWriteOnce binds the volume to one node, and up to {most} pods "
            "(replicas and rollout.maxSurge) may run on several; write ReadWriteMany, or hold them on one "
            "node with podTemplate.nodeSelector kubernetes.io/hostname, or take model.cache.mode PerReplica",
        )


def _digest(spec: LLMDeploymentSpec, known: Inspection, signers: tuple[str, ...] | None) -> str:
    credentials = spec.model.credentials
    parts = [
        spec.model.source,
        known.commit,
        known.digest,
        credentials.model_dump(exclude_none=True) if credentials else None,
        # What was filled without a signature is not for those who require one.
        *([signers] if signers is not None else []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _size(cache: CacheSpec, known: Inspection, ceiling: str | None) -> str:
    if cache.size is not None:
        return cache.size
    size = -(-((known.size or known.facts.weight_bytes) * 11 // 10 + SPARE_BYTES) // MIB)
    if ceiling is not None and size * MIB > parse_quantity(ceiling):
        raise Refused(
            Reason.CLASS_DENIED,
            f"the model's files need a volume of {size}Mi, above the class's ceiling of {ceiling} "
            "(ceilings.cacheSize); take a smaller or quantised model, or model.cache.mode PerReplica",
        )
    return f"{size}Mi"


def _job(key: Key, labels: Mapping[str, str], spec: LLMDeploymentSpec, values: Effective) -> Object:
    target = f"{DIRECTORY}/{PUBLISHED}"
    arguments = ["fetch", spec.model.source, *revision_arguments(values), "--to", target, "--publish"]
    arguments += ["--progress-port", str(PROGRESS_PORT)]
    pod = job_pod(
        spec,
        values,
        CONTAINER,
        arguments,
        volumes=[{"name": "model", "persistentVolumeClaim": {"claimName": key.name}}],
        mounts=[{"name": "model", "mountPath": DIRECTORY}],
        ports=[{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
    )
    return render_job(key, labels, pod, attempts=ATTEMPTS, seconds=SECONDS)


def _filled(claim: Object | None, jobs: Sequence[Object], now: float) -> str | None:
    """Return since when the claim holds the whole model."""
    noted = ((claim or {"metadata": {}})["metadata"].get("annotations") or {}).get(FILLED)
    if noted:
        return str(noted)
    done = claim is not None and any(finished(job) == "Complete" for job in jobs)
    return text_of(now) if done else None


def _explain(asking: Wish, live: Object | None, pods: Sequence[Object]) -> Finding:
    found = explain_job(live, pods, CONTAINER)
    return found if found is not None else fetching(asking)


def fetching(asking: Wish) -> Finding:
    """Return that the files are on their way."""
    key = asking.key
    command = f"kubectl -n {key.namespace} logs -l job-name,{LABEL_CACHE}={key.name} --tail=5"
    return Finding(Reason.FETCHING, f"the model is being fetched to {key.name}", command, on_the_way=True)


def _annotated(claim: Object, annotations: Mapping[str, str | None]) -> Object:
    meta = dict(claim["metadata"])
    merged = {**(meta.get("annotations") or {}), **annotations}
    meta["annotations"] = {name: value for name, value in merged.items() if value is not None}
    return {**claim, "metadata": meta, "spec": dict(claim["spec"])}


def _ours(claim: Object) -> Object:
    """Return of a live claim what we apply."""
    meta, spec = claim["metadata"], claim["spec"]
    annotations = meta.get("annotations") or {}
    kept = ("accessModes", "resources", "storageClassName")
    return {
        "apiVersion": CLAIM.api_version,
        "kind": CLAIM.kind,
        "metadata": {
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "labels": {k: v for k, v in (meta.get("labels") or {}).items() if k in _LABELS},
            "annotations": {k: v for k, v in annotations.items() if k.startswith(f"{names.GROUP}/")},
        },
        "spec": {name: spec[name] for name in kept if name in spec},
    }


_LABELS: Final = (names.LABEL_NAME, names.LABEL_MANAGED_BY, LABEL_CACHE)


def _not_smaller(claim: Object, wanted: Object) -> Object:
    """Return the request for storage: volumes grow and never shrink, two objects may ask for two sizes."""
    live = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage")
    asked = wanted["spec"]["resources"]["requests"]["storage"]
    larger = live if live is not None and parse_quantity(live) >= parse_quantity(asked) else asked
    return {"requests": {"storage": larger}}


def _retain(annotations: Mapping[str, str]) -> float:
    text = annotations.get(RETAIN, "")
    return float(text) if text.isascii() and text.isdigit() else float(DEFAULT_RETAIN_SECONDS)


def _first(item: tuple[Key, Any]) -> Key:
    return item[0]
