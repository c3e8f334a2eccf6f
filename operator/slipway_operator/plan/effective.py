"""The values in force: what the object says, else how the operator was installed, else what is built in.

Each keeps where it came from, and status shows both. Built-in values are written out here and handed to the
engine as flags, so that a new engine image does not change them behind the object's back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

from slipway_api import catalogue
from slipway_api.sources import ModelSource, parse_source
from slipway_api.v1alpha1 import (
    EffectiveValue,
    EngineSpec,
    LLMDeploymentSpec,
    ResourceRequirements,
    RolloutSpec,
)
from slipway_operator.plan.installation import Installation
from slipway_operator.plan.profiles import SLIPWAY, Profile

T = TypeVar("T")
Origin: TypeAlias = Literal["spec", "operator", "built-in"]

# The bounds of `status.effective` in the schema.
MAX_FIELD: Final = 128
MAX_VALUE: Final = 1024

DEFAULT_REVISION: Final = "main"
DEFAULT_MAX_NUM_SEQS: Final = 64
DEFAULT_MAX_BATCHTOKENS: Final = 512
DEFAULT_MEMORY_PERCENT: Final = 90
DEFAULT_PROGRESS_DEADLINE: Final = 1800
DEFAULT_DRAIN_SECONDS: Final = 300

# Small enough that a first try schedules anywhere. The memory limit is what the engine plans with.
CPU_REQUESTS: Final = {"cpu": "500m", "memory": "2Gi"}
CPU_LIMITS: Final = {"memory": "2Gi"}
# Beside an accelerator the host only reads weights and feeds the device; no limit that could kill a load.
ACCELERATOR_REQUESTS: Final = {"cpu": "1", "memory": "8Gi"}


@dataclass(frozen=True)
class Resources:
    """Requests and limits of the engine container."""

    requests: Mapping[str, str]
    limits: Mapping[str, str]


@dataclass(frozen=True)
class Effective:
    """The values in force for one LLMDeployment."""

    source: ModelSource
    revision: str | None
    profile: Profile
    served_names: tuple[str, ...]
    image: str
    fetch_image: str
    fetch_environment: Mapping[str, str]
    max_model_len: int | None
    max_num_seqs: int
    max_batch_tokens: int
    memory_percent: int
    prefix_caching: bool
    accelerator: catalogue.Accelerator
    resources: Resources
    replicas: int
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

    def __init__(self) -> None:
        self.values: dict[str, EffectiveValue] = {}

    def note(self, field: str, value: object, origin: Origin) -> None:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        field = _shorten(field, MAX_FIELD)
        noted = EffectiveValue(field=field, value=_shorten(text, MAX_VALUE), **{"from": origin})
        self.values.setdefault(field, noted)

    def pick(self, field: str, given: T | None, default: T, origin: Origin = "built-in") -> T:
        value, source = (default, origin) if given is None else (given, "spec")
        self.note(field, value, source)
        return value


def resolve(name: str, spec: LLMDeploymentSpec, installation: Installation) -> Effective:
    """Return the values in force for the LLMDeployment `name`. Raises UnknownAccelerator."""
    pick = _Resolver()
    engine, rollout = spec.engine or EngineSpec(), spec.rollout or RolloutSpec()
    profile = SLIPWAY
    source = parse_source(spec.model.source)
    revision = None
    if source.scheme == "hf":
        revision = pick.pick("model.revision", spec.model.revision, DEFAULT_REVISION)
    served = tuple(spec.model.served_names or (name,))
    pick.note("model.servedNames", ", ".join(served), "spec" if spec.model.served_names else "built-in")
    accelerator = _accelerator(spec)
    pick.note("accelerator.type", accelerator.name, "spec" if spec.accelerator else "built-in")
    if engine.max_model_len is not None:
        pick.note("engine.maxModelLen", engine.max_model_len, "spec")
    surge, unavailable = rollout_bounds(rollout.max_surge, rollout.max_unavailable)
    pick.note("rollout.maxSurge", surge, _origin(rollout.max_surge))
    pick.note("rollout.maxUnavailable", unavailable, _origin(rollout.max_unavailable))
    image = pick.pick("engine.image", engine.image, installation.engine_image, "operator")
    return Effective(
        source=source,
        revision=revision,
        profile=profile,
        served_names=served,
        image=image,
        # The same image where it can: one less to pull.
        fetch_image=image if profile.ours else installation.engine_image,
        fetch_environment=installation.environment,
        max_model_len=engine.max_model_len,
        max_num_seqs=pick.pick("engine.maxNumSeqs", engine.max_num_seqs, DEFAULT_MAX_NUM_SEQS),
        max_batch_tokens=pick.pick("engine.maxBatchTokens", engine.max_batch_tokens, DEFAULT_MAX_BATCHTOKENS),
        memory_percent=pick.pick("engine.memoryPercent", engine.memory_percent, DEFAULT_MEMORY_PERCENT),
        prefix_caching=pick.pick("engine.prefixCaching", engine.prefix_caching, True),
        accelerator=accelerator,
        resources=_resources(spec, accelerator, pick),
        replicas=0 if spec.suspend else spec.replicas,
        max_surge=surge,
        max_unavailable=unavailable,
        progress_deadline_seconds=pick.pick(
            "rollout.progressDeadlineSeconds",
            rollout.progress_deadline_seconds,
            DEFAULT_PROGRESS_DEADLINE,
        ),
        drain_seconds=pick.pick("rollout.drainSeconds", rollout.drain_seconds, DEFAULT_DRAIN_SECONDS),
        values=tuple(value for _, value in sorted(pick.values.items())),
    )


def rollout_bounds(surge: int | None, unavailable: int | None) -> tuple[int, int]:
    """Return maxSurge and maxUnavailable: never both 0, since no pod could ever be replaced then."""
    if surge is None:
        surge = 1
    if unavailable is None:
        unavailable = 1 if surge == 0 else 0
    return surge, unavailable


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _origin(given: object) -> Origin:
    return "built-in" if given is None else "spec"


def _accelerator(spec: LLMDeploymentSpec) -> catalogue.Accelerator:
    name = (spec.accelerator and spec.accelerator.type) or catalogue.CPU
    known = catalogue.CATALOGUE.get(name)
    if known is None:
        raise UnknownAccelerator(
            f"accelerator.type {name!r} is not in the catalogue; "
            f"write one of {', '.join(catalogue.CATALOGUE)}"
        )
    return known


def _resources(spec: LLMDeploymentSpec, accelerator: catalogue.Accelerator, resolver: _Resolver) -> Resources:
    given = (spec.pod_template and spec.pod_template.resources) or ResourceRequirements()
    requests, limits = dict(given.requests or {}), dict(given.limits or {})
    mentioned = {*requests, *limits}
    for field, values in (("requests", requests), ("limits", limits)):
        for name, value in sorted(values.items()):
            resolver.note(f"podTemplate.resources.{field}.{name}", value, "spec")
    for field, values, defaults in (
        ("requests", requests, CPU_REQUESTS if accelerator.resource is None else ACCELERATOR_REQUESTS),
        ("limits", limits, CPU_LIMITS if accelerator.resource is None else {accelerator.resource: "1"}),
    ):
        # A resource the user mentions anywhere is the user's alone: a default beside it could contradict it.
        for name, value in defaults.items():
            if name not in mentioned:
                values[name] = value
                resolver.note(f"podTemplate.resources.{field}.{name}", value, "built-in")
    return Resources(requests, limits)
