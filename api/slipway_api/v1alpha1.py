"""`LLMDeployment`, version v1alpha1: the object a user writes, and the status the operator answers with.

Read from a file or the API server into these models; the CRD under `crds/` is generated from them. Field
docstrings are the API reference. Absent optional fields are resolved by the operator, which shows the value
it chose, and where it came from, in `status.effective`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from slipway_api.names import NAME_MAX_LENGTH
from slipway_api.quantity import Quantity
from slipway_api.rules import VALIDATIONS, Rule
from slipway_api.sources import SOURCE_RULE

Label = Annotated[str, Field(max_length=63)]
LabelKey = Annotated[str, Field(max_length=317)]
ResourceName = Annotated[str, Field(min_length=1, max_length=253)]
SecretName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Rule(
        cel="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        holds=lambda v: re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", v) is not None,
        message="must be the name of a Secret in the same namespace: lower-case letters, digits, '-' and '.'",
    ),
]
ServedName = Annotated[
    str,
    Field(min_length=1, max_length=128),
    Rule(
        cel="self.matches('^[A-Za-z0-9][A-Za-z0-9._/:-]*$')",
        holds=lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:-]*", v) is not None,
        message="a served name starts with a letter or a digit and holds letters, digits and . _ / : -",
    ),
]


class Spec(BaseModel):
    """Base of all that a user writes: camelCase outside, snake_case inside, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules over several fields, checked by the API server and here."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.rules:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = super().__get_pydantic_json_schema__(schema, handler)
        if cls.rules:
            target = handler.resolve_ref_schema(json_schema)
            target[VALIDATIONS] = [rule.as_validation() for rule in cls.rules]
        return json_schema


class SecretReference(Spec):
    """A Secret in the namespace of the LLMDeployment."""

    secret_name: SecretName
    """Name of the Secret. Its key `token` holds the token."""


class ModelSpec(Spec):
    """Which model is served, and under which names."""

    source: Annotated[str, Field(min_length=1, max_length=1024), SOURCE_RULE]
    """Where the model comes from: `hf://ORG/NAME` (a Hugging Face repository), `https://HOST/PATH.gguf`,
    `pvc://CLAIM/PATH` (a directory or GGUF file on a claim of the same namespace) or `file:///PATH`
    (inside the engine's image)."""
    revision: (
        Annotated[
            str,
            Field(min_length=1, max_length=128),
            Rule(
                cel="self.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$')",
                holds=lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", v) is not None,
                message="model.revision must be a branch, a tag or a commit, for example main",
            ),
        ]
        | None
    ) = None
    """Branch, tag or commit of an `hf://` repository. Absent: `main`."""
    served_names: Annotated[list[ServedName], Field(min_length=1, max_length=16)] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """Model names that clients may ask for. Absent: the name of the object."""
    credentials: SecretReference | None = None
    """Token for a gated or private model (`hf://` and `https://`)."""


class EngineSpec(Spec):
    """How the engine runs. Everything absent is decided from the model and the machine."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Engine image. Absent: the one the operator was installed with."""
    max_model_len: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    """Longest prompt plus output of one request, in tokens. Absent: what the model and the memory allow."""
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Most requests that run at the same time in one replica. Absent: 64."""
    max_batch_tokens: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Most tokens computed in one step; long prompts are cut into chunks of this size. Absent: 512."""
    memory_percent: Annotated[int, Field(ge=10, le=100)] | None = None
    """Share of the container's (or the accelerator's) memory that the engine plans with. Absent: 90."""
    prefix_caching: bool | None = None
    """Reuse the KV cache of equal prompt prefixes. Absent: true."""


class AcceleratorSpec(Spec):
    """What the model runs on."""

    type: Annotated[str, Field(min_length=1, max_length=63)]
    """`cpu`, or a name of the accelerator catalogue such as `nvidia-l4-24gb`."""


class RolloutSpec(Spec):
    """How a change reaches the pods."""

    max_surge: Annotated[int, Field(ge=0, le=100)] | None = None
    """Pods that may exist above the number of replicas while a change is rolled out. Absent: 1."""
    max_unavailable: Annotated[int, Field(ge=0, le=100)] | None = None
    """Replicas that may be missing while a change is rolled out. Absent: 0, or 1 where maxSurge is 0."""
    progress_deadline_seconds: Annotated[int, Field(ge=60, le=86_400)] | None = None
    """Time without progress after which the rollout counts as stalled. Absent: 1800."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """Time a pod that goes away gets to finish its streams. Absent: 300."""
    restart_token: Annotated[str, Field(max_length=64)] | None = None
    """Any text; changing it replaces all pods one after the other."""


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
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """Environment variables of the engine container."""
    node_selector: Annotated[dict[str, Label], Field(max_length=32)] | None = None
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    """Taints the pods tolerate."""
    affinity: dict[str, Any] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Affinity, as in a pod."""
    resources: ResourceRequirements | None = None
    """Compute resources of the engine container."""
    priority_class_name: ResourceName | None = None
    """Priority class of the pods."""
    service_account_name: ResourceName | None = None
    """Service account of the pods. Its token is never mounted."""
    image_pull_secrets: Annotated[list[SecretName], Field(max_length=8)] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """Names of Secrets for pulling the images."""


class LLMDeploymentSpec(Spec):
    """What should run."""

    model: ModelSpec
    """The model."""
    suspend: bool = False
    """Parks the deployment: no pods, everything else stays."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of replicas, as in a Deployment; 0 is zero pods."""
    engine: EngineSpec | None = None
    """Engine settings."""
    accelerator: AcceleratorSpec | None = None
    """What the model runs on. Absent: the CPU."""
    rollout: RolloutSpec | None = None
    """How changes are rolled out."""
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
            cel="!has(self.model.revision) || self.model.source.startsWith('hf://')",
            holds=lambda spec: spec.model.revision is None or spec.model.source.startswith("hf://"),
            message="model.revision only means something for an hf:// source; remove it",
        ),
        Rule(
            cel="!has(self.model.credentials) || self.model.source.startsWith('hf://')"
            " || self.model.source.startsWith('https://')",
            holds=lambda spec: (
                spec.model.credentials is None or spec.model.source.startswith(("hf://", "https://"))
            ),
            message="model.credentials are only used by hf:// and https:// sources; remove them",
        ),
    )


class Status(BaseModel):
    """Base of all that the operator writes."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True)


class StatusCondition(Status):
    """A condition, as in apimachinery's metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    """Type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=1024)]
    """One CamelCase word that programs may read."""
    message: Annotated[str, Field(max_length=32_768)]
    """One sentence for people: what blocks, and what to do next."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When `status` last changed."""
    observed_generation: int | None = None
    """The generation this condition was computed from."""


class EffectiveValue(Status):
    """A value in force and where it came from."""

    field: Annotated[str, Field(max_length=128)]
    """Path of the field below `spec`."""
    value: Annotated[str, Field(max_length=1024)]
    """The value in force."""
    source: Annotated[str, Field(max_length=64)] = Field(alias="from")
    """`spec`, `operator` (how it was installed) or `built-in`."""


class LLMDeploymentStatus(Status):
    """What the operator observed."""

    observed_generation: int | None = None
    """The generation of the spec that this status describes."""
    replicas: int | None = None
    """Pods that exist."""
    ready_replicas: int | None = None
    """Pods that serve."""
    updated_replicas: int | None = None
    """Pods of the newest spec."""
    ready: Annotated[str, Field(max_length=32)] | None = None
    """Ready pods of those wanted, for people: `1/2`."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for the scale subresource."""
    url: Annotated[str, Field(max_length=512)] | None = None
    """Base URL of the OpenAI-compatible API inside the cluster."""
    effective: Annotated[list[EffectiveValue], Field(max_length=64)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["field"]},
    )
    """The values in force and where each came from."""
    conditions: Annotated[list[StatusCondition], Field(max_length=16)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Accepted, ModelReady, Available, Reconciling, Stalled and Ready."""


NAME_RULE = Rule(
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
