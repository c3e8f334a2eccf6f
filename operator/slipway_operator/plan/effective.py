"""The values in force: what the object says, else its class, the installation, what is built in.

Each keeps where it came from, and status shows both. Built-in values are written out here and handed to the
engine as flags, so that a new engine image does not change them behind the object's back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

from slipway_api import catalogue
from slipway_api.conditions import Reason
from slipway_api.sources import ModelSource, parse_source
from slipway_api.v1alpha1 import (
    CaBundle,
    CacheSpec,
    Ceilings,
    EffectiveValue,
    EngineSpec,
    LLMDeploymentSpec,
    NetworkSpec,
    RolloutSpec,
    RoutingSpec,
)
from slipway_operator.plan.classes import Classed, Refused
from slipway_operator.plan.installation import Installation
from slipway_operator.plan.layout import Layout, layout_of
from slipway_operator.plan.profiles import PROFILES, Profile, custom_profile
from slipway_operator.plan.resources import Resources, is_rdma, resources_of
from slipway_operator.plan.support import value_at

T = TypeVar("T")
Origin: TypeAlias = Literal["operator", "built-in"]

# The bounds of `status.effective` in the schema.
MAX_FIELD: Final = 128
MAX_VALUE: Final = 1024
MAX_ORIGIN: Final = 64

DEFAULT_REVISION: Final = "main"
DEFAULT_MAX_NUM_SEQS: Final = 64
DEFAULT_MAX_BATCHTOKENS: Final = 512
DEFAULT_MEMORY_PERCENT: Final = 90
DEFAULT_PROGRESS_DEADLINE: Final = 1800
DEFAULT_DRAIN_SECONDS: Final = 300
DEFAULT_RETAIN_SECONDS: Final = 86_400
DEFAULT_DOWN_WINDOW: Final = 300


@dataclass(frozen=True)
class Effective:
    """The values in force for one LLMDeployment."""

    source: ModelSource
    revision: str | None
    profile: Profile
    served_names: tuple[str, ...]
    image: str
    job_image: str
    """The image of the Jobs that inspect and fetch: the operator's, whose command line it knows."""
    fetch_image: str
    """The image of the container that fetches in the engine's own pod."""
    fetch_environment: Mapping[str, str]
    ca_bundle: CaBundle | None
    signers: tuple[str, ...] | None
    """Public keys in PEM, one of which has to have signed the model; None asks for no signature."""
    cache: CacheSpec
    commit: str | None
    """What the revision was resolved to, once it is known."""
    claim: str | None
    """The claim that holds the model, where a volume is shared by all replicas."""
    extra_args: tuple[str, ...]
    max_model_len: int | None
    max_num_seqs: int
    max_batch_tokens: int
    memory_percent: int
    prefix_caching: bool
    accelerator: catalogue.Accelerator
    layout: Layout
    resources: Resources
    locks_memory: bool
    """Whether the class lets the engine lock memory for RDMA devices, which its pods request."""
    replicas: int
    capped_by_nodes: bool
    """Whether the autoscaler asks for no more replicas than nodes have room for."""
    max_surge: int
    max_unavailable: int
    progress_deadline_seconds: int
    drain_seconds: int
    values: tuple[EffectiveValue, ...]
    """All of the above that were resolved, for status."""


class UnknownAccelerator(ValueError):
    """`accelerator.type` names nothing in the catalogue."""


class _Resolver:
    """Resolves values and notes where each came from."""

    def __init__(self, found: Classed) -> None:
        self.values: dict[str, EffectiveValue] = {}
        self._given, self._from_class = found.given, f"class/{found.name}"

    def note(self, field: str, value: object, origin: str) -> None:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        field = _shorten(field, MAX_FIELD)
        noted = EffectiveValue(
            field=field, value=_shorten(text, MAX_VALUE), **{"from": _shorten(origin, MAX_ORIGIN)}
        )
        self.values.setdefault(field, noted)

    def origin(self, field: str) -> str:
        """Return who set a field that is set."""
        return "spec" if value_at(self._given, field) is not None else self._from_class

    def pick(self, field: str, value: T | None, default: T, origin: Origin = "built-in") -> T:
        """Return `value`, or the default where it is None."""
        self.note(field, default if value is None else value, origin if value is None else self.origin(field))
        return default if value is None else value

    def pick_below(self, field: str, value: int | None, default: int, most: int | None) -> int:
        """Return `value`, or the default where it is None, cut to the class's ceiling."""
        if value is None and most is not None and most < default:
            self.note(field, most, self._from_class)
            return most
        return self.pick(field, value, default)

    def told(self, field: str, value: object) -> None:
        """Note a value that has no default, where it is set."""
        if value is not None:
            self.note(field, value, self.origin(field))


def resolve(name: str, found: Classed, installation: Installation) -> Effective:
    """Return the values in force for the LLMDeployment `name`. Raises UnknownAccelerator and Refused."""
    spec, pick = found.spec, _Resolver(found)
    most = (found.offer and found.offer.ceilings) or Ceilings()
    engine, rollout = spec.engine or EngineSpec(), spec.rollout or RolloutSpec()
    profile = _profile(engine)
    pick.pick("engine.runtime", engine.runtime, "slipway")
    source = parse_source(spec.model.source)
    revision = None
    if source.scheme == "hf":
        revision = pick.pick("model.revision", spec.model.revision, DEFAULT_REVISION)
    served = tuple(spec.model.served_names or (name,))
    pick.note("model.servedNames", ", ".join(served), "spec" if spec.model.served_names else "built-in")
    accelerator = _accelerator(spec, installation.catalogue)
    layout = layout_of(spec, accelerator)
    for told, said in (
        ("parallelism.tensor", spec.parallelism and layout.tensor),
        ("parallelism.pipeline", spec.parallelism and layout.pipeline),
        ("quantization.weights", spec.quantization and spec.quantization.weights),
        ("quantization.kvCache", spec.quantization and spec.quantization.kv_cache),
        ("accelerator.mig.profile", layout.mig),
        ("accelerator.capacity", layout.capacity),
    ):
        pick.told(told, said)
    pick.pick("accelerator.type", spec.accelerator and spec.accelerator.type, accelerator.name)
    max_model_len = engine.max_model_len if engine.max_model_len is not None else most.max_model_len
    pick.told("engine.maxModelLen", max_model_len)
    surge, unavailable = rollout_bounds(rollout.max_surge, rollout.max_unavailable)
    for field, value, resolved in (
        ("rollout.maxSurge", rollout.max_surge, surge),
        ("rollout.maxUnavailable", rollout.max_unavailable, unavailable),
    ):
        pick.note(field, resolved, "built-in" if value is None else pick.origin(field))
    image = _image(engine, profile, installation, pick)
    network = _network(found, installation)
    capped = _scaling(found, pick)
    pick.told("engine.extraArgs", " ".join(engine.extra_args) if engine.extra_args else None)
    return Effective(
        source=source,
        revision=revision,
        profile=profile,
        served_names=served,
        image=image,
        job_image=installation.engine_image,
        # The same image where it can: one less to pull. A credential is shown to no image of the object's.
        fetch_image=image if profile.ours and spec.model.credentials is None else installation.engine_image,
        fetch_environment=network.environment,
        ca_bundle=network.ca_bundle,
        signers=_signers(found),
        cache=_cache(spec, pick),
        commit=None,
        claim=None,
        extra_args=tuple(engine.extra_args or ()),
        max_model_len=max_model_len,
        max_num_seqs=pick.pick_below(
            "engine.maxNumSeqs", engine.max_num_seqs, DEFAULT_MAX_NUM_SEQS, most.max_num_seqs
        ),
        max_batch_tokens=pick.pick("engine.maxBatchTokens", engine.max_batch_tokens, DEFAULT_MAX_BATCHTOKENS),
        memory_percent=pick.pick("engine.memoryPercent", engine.memory_percent, DEFAULT_MEMORY_PERCENT),
        prefix_caching=pick.pick("engine.prefixCaching", engine.prefix_caching, True),
        accelerator=accelerator,
        layout=layout,
        resources=(resources := resources_of(spec, layout.devices, most, pick.note, pick.origin)),
        locks_memory=_locks_memory(found, resources),
        replicas=0 if spec.suspend else spec.replicas,
        capped_by_nodes=capped,
        max_surge=surge,
        max_unavailable=unavailable,
        progress_deadline_seconds=pick.pick(
            "rollout.progressDeadlineSeconds",
            rollout.progress_deadline_seconds,
            DEFAULT_PROGRESS_DEADLINE,
        ),
        drain_seconds=pick.pick_below(
            "rollout.drainSeconds", rollout.drain_seconds, DEFAULT_DRAIN_SECONDS, most.drain_seconds
        ),
        values=tuple(value for _, value in sorted(pick.values.items())),
    )


def _locks_memory(found: Classed, resources: Resources) -> bool:
    allowed = found.offer is not None and found.offer.allow is not None and found.offer.allow.rdma
    return bool(allowed) and any(is_rdma(name) for name in {*resources.requests, *resources.limits})


def _profile(engine: EngineSpec) -> Profile:
    """Return the runtime's profile; a custom one is filled in from the object."""
    if engine.custom is None:
        return PROFILES[engine.runtime or "slipway"]
    return custom_profile(engine.custom)


def _image(engine: EngineSpec, profile: Profile, installation: Installation, pick: _Resolver) -> str:
    if engine.image is None and not profile.ours:
        raise Refused(
            Reason.INVALID_SPEC,
            f"engine.image is missing, and Slipway's own image does not carry runtime {profile.name}; "
            "write the image to run",
        )
    return pick.pick("engine.image", engine.image, installation.engine_image, "operator")


def _cache(spec: LLMDeploymentSpec, pick: _Resolver) -> CacheSpec:
    cache = spec.model.cache or CacheSpec()
    mode = pick.pick("model.cache.mode", cache.mode, "PerReplica")
    if mode == "Shared":
        pick.pick("model.cache.accessMode", cache.access_mode, "ReadWriteMany")
        pick.pick("model.cache.retainSeconds", cache.retain_seconds, DEFAULT_RETAIN_SECONDS)
        pick.told("model.cache.storageClassName", cache.storage_class_name)
        pick.told("model.cache.size", cache.size)
    return cache.model_copy(update={"mode": mode})


def _scaling(found: Classed, pick: _Resolver) -> bool:
    """Note what the autoscaler and the gateway act upon, which shapes no pod; return whether nodes cap it."""
    spec = found.spec
    routing, scaling = spec.routing or RoutingSpec(), spec.autoscaling
    pick.told("routing.maxHeldRequests", routing.max_held_requests)
    pick.told("routing.maxHoldSeconds", routing.max_hold_seconds)
    if scaling is None:
        return False
    metrics = ", ".join(f"{one.type} {one.target or 'learned'}" for one in scaling.metrics or ())
    implied = f"InFlight learned{implied_target(spec)}"
    pick.pick("autoscaling.minReplicas", scaling.min_replicas, 1)
    pick.told("autoscaling.maxReplicas", scaling.max_replicas)
    pick.pick("autoscaling.spareReplicas", scaling.spare_replicas, 0)
    pick.pick("autoscaling.metrics", metrics or None, implied)
    pick.told("autoscaling.fallbackReplicas", scaling.fallback_replicas)
    pick.told("autoscaling.idleSeconds", scaling.idle_seconds)
    down = scaling.behavior.scale_down if scaling.behavior else None
    window = down.stabilization_window_seconds if down else None
    pick.pick("autoscaling.behavior.scaleDown.stabilizationWindowSeconds", window, DEFAULT_DOWN_WINDOW)
    offered = found.offer.autoscaling if found.offer else None
    capped = bool(offered and offered.cap_by_free_accelerators)
    if capped:
        pick.note("autoscaling.capByFreeAccelerators", capped, f"class/{found.name}")
    return capped


def implied_target(spec: LLMDeploymentSpec) -> str:
    """Return, in words, the target that `slo.ttftMs` adds where no metric is named."""
    return f", TimeToFirstToken {spec.slo.ttft_ms}" if spec.slo and spec.slo.ttft_ms is not None else ""


@dataclass(frozen=True)
class _Network:
    environment: Mapping[str, str]
    ca_bundle: CaBundle | None


def _network(found: Classed, installation: Installation) -> _Network:
    """Return how fetches reach the world: the class's word goes before the installation's."""
    offered = (found.offer and found.offer.network) or NetworkSpec()
    told = {
        "HF_ENDPOINT": offered.hf_endpoint,
        "AWS_ENDPOINT_URL_S3": offered.s3_endpoint,
        "AWS_REGION": offered.s3_region,
        "STORAGE_EMULATOR_HOST": offered.gs_endpoint,
        "HTTP_PROXY": offered.http_proxy,
        "HTTPS_PROXY": offered.https_proxy,
        "NO_PROXY": offered.no_proxy,
    }
    environment = {**installation.environment, **{k: v for k, v in told.items() if v is not None}}
    allowed = found.offer.allowed_sources if found.offer else None
    if allowed is not None and found.spec.model.source.startswith("https://"):
        # Redirects lead anywhere: whoever follows them holds them to the class's list.
        environment["SLIPWAY_ALLOWED_SOURCES"] = json.dumps(list(allowed))
    return _Network(environment, offered.ca_bundle)


def _signers(found: Classed) -> tuple[str, ...] | None:
    signatures = found.offer.signatures if found.offer else None
    return tuple(signatures.public_keys) if signatures is not None else None


def rollout_bounds(surge: int | None, unavailable: int | None) -> tuple[int, int]:
    """Return maxSurge and maxUnavailable: never both 0, since no pod could ever be replaced then."""
    if surge is None:
        surge = 1
    if unavailable is None:
        unavailable = 1 if surge == 0 else 0
    return surge, unavailable


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _accelerator(spec: LLMDeploymentSpec, known: catalogue.Catalogue) -> catalogue.Accelerator:
    name = (spec.accelerator and spec.accelerator.type) or catalogue.CPU
    if name not in known:
        raise UnknownAccelerator(
            f"accelerator.type {name!r} is not in the catalogue; write one of {', '.join(known)}"
        )
    return known[name]
