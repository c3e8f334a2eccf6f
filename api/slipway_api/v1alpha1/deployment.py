"""The object itself: `LLMDeployment`, its spec and the rules over several of its parts."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from slipway_api.names import NAME_MAX_LENGTH
from slipway_api.rules import Rule
from slipway_api.v1alpha1.accelerator import AcceleratorSpec, SloSpec
from slipway_api.v1alpha1.autoscaling import AutoscalingSpec
from slipway_api.v1alpha1.base import ResourceName, Spec
from slipway_api.v1alpha1.engine import EngineSpec, ParallelismSpec, QuantizationSpec
from slipway_api.v1alpha1.model import ModelSpec
from slipway_api.v1alpha1.pod import PodTemplateSpec
from slipway_api.v1alpha1.rollout import RolloutSpec, RoutingSpec
from slipway_api.v1alpha1.status import LLMDeploymentStatus


class LLMDeploymentSpec(Spec):
    """What should run."""

    class_name: ResourceName | None = None
    """The `LLMClass` that gives defaults and limits. Absent: the default class, where there is one."""
    suspend: bool = False
    """Parks the deployment: no pods, everything else stays."""
    model: ModelSpec
    """The model."""
    engine: EngineSpec | None = None
    """Engine settings."""
    quantization: QuantizationSpec | None = None
    """How weights and keys and values are held in memory."""
    parallelism: ParallelismSpec | None = None
    """How one replica is spread over accelerators."""
    accelerator: AcceleratorSpec | None = None
    """What the model runs on."""
    slo: SloSpec | None = None
    """How fast it has to be."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of replicas, as in a Deployment; 0 is zero pods. Ignored where `autoscaling` is set."""
    autoscaling: AutoscalingSpec | None = None
    """Lets the operator choose the number of replicas."""
    rollout: RolloutSpec | None = None
    """How changes are rolled out."""
    routing: RoutingSpec | None = None
    """How the gateway chooses a replica."""
    pod_template: PodTemplateSpec | None = None
    """Overlay on the engine's pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.rollout) || !has(self.rollout.maxSurge) || self.rollout.maxSurge > 0"
            " || !has(self.rollout.maxUnavailable) || self.rollout.maxUnavailable > 0",
            holds=lambda spec: (
                spec.rollout is None or (spec.rollout.max_surge, spec.rollout.max_unavailable) != (0, 0)
            ),
            message="rollout.maxSurge and rollout.maxUnavailable are both 0, so no pod could ever be "
            "replaced; set one of them to 1",
        ),
        Rule(
            cel="!has(self.accelerator) || !has(self.accelerator.mig) || !has(self.parallelism)"
            " || ((!has(self.parallelism.tensor) || self.parallelism.tensor == 1)"
            " && (!has(self.parallelism.pipeline) || self.parallelism.pipeline == 1))",
            holds=lambda spec: (
                spec.accelerator is None
                or spec.accelerator.mig is None
                or spec.parallelism is None
                or (spec.parallelism.tensor in (None, 1) and spec.parallelism.pipeline in (None, 1))
            ),
            message="accelerator.mig and parallelism exclude each other, since slices of a GPU cannot "
            "compute together; remove one of them",
        ),
        Rule(
            cel="!has(self.accelerator) || !has(self.accelerator.mig) || !has(self.accelerator.type)"
            " || self.accelerator.type.startsWith('nvidia-')",
            holds=lambda spec: (
                spec.accelerator is None
                or spec.accelerator.mig is None
                or spec.accelerator.type is None
                or spec.accelerator.type.startswith("nvidia-")
            ),
            message="accelerator.mig is a slice of an NVIDIA GPU; write an nvidia-... type, or remove it",
        ),
    )


NAME_RULE: Final = Rule(
    cel="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
    f" && size(self.metadata.name) <= {NAME_MAX_LENGTH}",
    holds=lambda name: (
        len(name) <= NAME_MAX_LENGTH and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None
    ),
    message="metadata.name becomes the name of a Service: at most 40 characters, lower-case letters, digits "
    "and '-', starting with a letter, for example smollm2",
)


class ObjectMeta(BaseModel):
    """The part of an object's metadata that Slipway reads from a file; the rest is kept as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, NAME_RULE]
    namespace: str | None = None


class LLMDeployment(BaseModel):
    """A model served behind an OpenAI-compatible API."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid", alias_generator=to_camel, frozen=True)

    api_version: Literal["slipway.dev/v1alpha1"] = "slipway.dev/v1alpha1"
    kind: Literal["LLMDeployment"] = "LLMDeployment"
    metadata: ObjectMeta
    spec: LLMDeploymentSpec
    status: LLMDeploymentStatus | None = None
