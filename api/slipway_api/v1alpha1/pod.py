"""`spec.podTemplate`: a bounded overlay on the engine's pods, in the words of a pod."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from slipway_api.quantity import Quantity
from slipway_api.rules import Rule
from slipway_api.v1alpha1.base import ANYTHING, SET, Label, ResourceName, SecretName, Spec, map_of
from slipway_api.v1alpha1.volumes import Volume, VolumeMount


class KeyReference(Spec):
    """A key of a Secret or ConfigMap."""

    name: ResourceName
    """Name of the Secret or ConfigMap."""
    key: ResourceName
    """Key inside it."""
    optional: bool | None = None
    """Whether the pod starts without it."""


class EnvVarSource(Spec):
    """Where an environment variable's value comes from; exactly one of the two."""

    secret_key_ref: KeyReference | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyReference | None = None
    """A key of a ConfigMap."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.secretKeyRef) != has(self.configMapKeyRef)",
            holds=lambda ref: (ref.secret_key_ref is None) != (ref.config_map_key_ref is None),
            message="write exactly one of secretKeyRef and configMapKeyRef",
        ),
    )


class EnvVar(Spec):
    """An environment variable of the engine container."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=128),
        Rule(
            cel="self.matches('^[A-Za-z_][A-Za-z0-9_]*$') && !self.startsWith('SLIPWAY_')",
            holds=lambda v: re.fullmatch(r"(?!SLIPWAY_)[A-Za-z_][A-Za-z0-9_]*", v) is not None,
            message="an environment variable's name holds letters, digits and '_', "
            "and SLIPWAY_ is the operator's own prefix",
        ),
    ]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Its value."""
    value_from: EnvVarSource | None = None
    """Its value, from a Secret or a ConfigMap."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.value) != has(self.valueFrom)",
            holds=lambda env: (env.value is None) != (env.value_from is None),
            message="write exactly one of value and valueFrom",
        ),
    )


class Toleration(Spec):
    """A toleration, as in a pod."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """Taint key; absent with operator Exists tolerates everything."""
    operator: Literal["Exists", "Equal"] | None = None
    """`Exists` or `Equal` (the default)."""
    value: Label | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; absent matches all."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a NoExecute taint is tolerated."""


class ResourceRequirements(Spec):
    """Compute resources of the engine container, as in a pod."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    """What the scheduler reserves."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    """What the container may not exceed. The engine sizes its threads and its KV cache from these."""


class PodTemplateSpec(Spec):
    """A bounded overlay on the engine's pods."""

    labels: Annotated[dict[str, Label], Field(max_length=32)] | None = None
    """Further labels; those of Slipway win."""
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)] | None = (
        None
    )
    """Annotations."""
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        default=None, json_schema_extra=map_of("name")
    )
    """Environment variables of the engine container."""
    node_selector: Annotated[dict[str, Label], Field(max_length=32)] | None = None
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    """Taints the pods tolerate."""
    affinity: dict[str, Any] | None = Field(default=None, json_schema_extra=ANYTHING)
    """Affinity, as in a pod."""
    topology_spread_constraints: (
        Annotated[list[Annotated[dict[str, Any], Field(json_schema_extra=ANYTHING)]], Field(max_length=8)]
        | None
    ) = None
    """How pods spread over zones and nodes, as in a pod."""
    resources: ResourceRequirements | None = None
    """Compute resources of the engine container."""
    priority_class_name: ResourceName | None = None
    """Priority class of the pods."""
    runtime_class_name: ResourceName | None = None
    """Runtime class of the pods."""
    scheduler_name: ResourceName | None = None
    """Scheduler of the pods."""
    service_account_name: ResourceName | None = None
    """Service account of the pods. Its token is never mounted."""
    image_pull_secrets: Annotated[list[SecretName], Field(max_length=8)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Names of Secrets for pulling the images."""
    volumes: Annotated[list[Volume], Field(max_length=16)] | None = Field(
        default=None, json_schema_extra=map_of("name")
    )
    """Further volumes."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=16)] | None = Field(
        default=None, json_schema_extra=map_of("mountPath")
    )
    """Where the engine container sees them."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes)"
            " && self.volumes.exists(v, v.name == m.name))",
            holds=lambda pod: (
                {m.name for m in pod.volume_mounts or ()} <= {v.name for v in pod.volumes or ()}
            ),
            message="podTemplate.volumeMounts may only name volumes of podTemplate.volumes; add the volume",
        ),
    )
